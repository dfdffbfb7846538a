//! Training a checkpoint on: with pruning, with adapters, with a teacher, or from scratch.
//!
//! | file | content |
//! |---|---|
//! | `objective.rs`, `head.rs` | what is minimised, and its gradient at the output layer |
//! | `job.rs`, `trainer.rs` | a run, from a model to a folder; its loop |
//! | `schedule.rs` | the learning rate |
//! | `run_folder.rs` | what an interrupted run leaves |
//! | `stop.rs` | being asked to stop |

pub(crate) mod head;
mod job;
mod objective;
mod run_folder;
mod schedule;
#[cfg(feature = "ctrlc")]
mod stop;
mod trainer;

use burn::config::Config;

pub use job::Job;
pub use objective::{Objective, divergence, hidden_states, next_token};
pub use run_folder::{INTERRUPTED, Log, RunFolder};
pub use schedule::Decay;
#[cfg(feature = "ctrlc")]
pub use stop::Signals;
pub use trainer::{Session, Trainee, evaluate};

use crate::Error;
use crate::corpus::{Corpus, Sequences};
#[cfg(feature = "calibrate")]
pub(crate) use run_folder::{difference, lock, make_own};

/// How a model is trained.
#[derive(Config, Debug, PartialEq)]
pub struct TrainConfig {
    /// Optimizer steps.
    pub steps: usize,
    /// How the text is cut.
    #[config(default = "Sequences::new()")]
    pub sequences: Sequences,
    /// Batches whose gradients are summed before a step.
    #[config(default = 1)]
    pub accumulate: usize,
    /// Highest learning rate.
    #[config(default = 1e-3)]
    pub lr: f64,
    /// How the learning rate falls after its rise.
    #[config(default = "Decay::Cosine")]
    pub decay: Decay,
    /// Steps in which the learning rate rises; the last one may count in part.
    #[config(default = 50.0)]
    pub warm_up: f64,
    /// Largest norm of the gradient of each parameter by itself.
    #[config(default = 1.0)]
    pub gradient_norm: f32,
    /// Decay of the weights.
    #[config(default = 0.01)]
    pub weight_decay: f32,
    /// Steps from one entry of the loss curve to the next.
    #[config(default = 10)]
    pub log_every: usize,
    /// Steps from one evaluation to the next.
    #[config(default = 100)]
    pub eval_every: usize,
    /// Held-out sequences that an evaluation scores at most.
    #[config(default = "Corpus::EVALUATED")]
    pub evaluated: usize,
    /// Steps from one checkpoint to the next.
    #[config(default = 200)]
    pub save_every: usize,
    /// Whether the MLPs alone are trained.
    #[config(default = false)]
    pub only_mlps: bool,
    /// Whether dense linear layers are trained in the kernels of block-sparse layers, as layers that keep every block.
    /// On a host these are faster than Burn's; elsewhere it changes nothing. Losses are the same up to rounding.
    #[config(default = true)]
    pub pack_dense: bool,
    /// Seed of weights and batches.
    #[config(default = 0)]
    pub seed: u64,
}

impl TrainConfig {
    /// Checks what no type does.
    ///
    /// # Errors
    /// If a number is out of range.
    pub fn check(&self) -> Result<(), Error> {
        self.sequences.check()?;
        Error::at_least_one(&[
            ("steps", self.steps),
            ("accumulate", self.accumulate),
            ("log-every", self.log_every),
            ("eval-every", self.eval_every),
            ("save-every", self.save_every),
        ])?;
        let clip = f64::from(self.gradient_norm);
        let decay = f64::from(self.weight_decay);
        Error::in_range("lr", self.lr, self.lr > 0.0, "above 0")?;
        Error::in_range("clip", clip, clip > 0.0, "above 0")?;
        Error::in_range("weight-decay", decay, decay >= 0.0, "a number from 0")
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Optimizer steps done.
    pub step: usize,
    /// Seconds they took, up to the latest losses that were read, without evaluations and checkpoints.
    pub seconds: f64,
    /// Mean training loss of the latest steps that were read, in nats per token.
    pub loss: Option<f64>,
    /// Share of blocks removed, if the run prunes.
    pub sparsity: Option<f64>,
    /// Loss on held-out text, if it was evaluated after this step.
    pub held_out: Option<f64>,
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use std::ops::ControlFlow;

    use burn::module::Module;
    use burn::tensor::{DType, Device, Tensor};
    use burn_blast::prune::BlastConfig;
    use safetensors::SafeTensors;
    use serde_json::json;
    use tempfile::{TempDir, tempdir};

    use super::*;
    use crate::{Blocks, Form, Model, ModelFolder, Precision, Tokenizer};

    /// Settings of a short run.
    pub fn settings() -> TrainConfig {
        TrainConfig::new(12)
            .with_sequences(Sequences { context: 16, batch: 2 })
            .with_accumulate(2)
            .with_lr(1e-2)
            .with_warm_up(2.0)
            .with_weight_decay(0.0)
            .with_eval_every(6)
            .with_save_every(6)
            .with_seed(3)
    }

    /// `config.json` of a tiny model over bytes.
    pub fn config() -> serde_json::Value {
        json!({
            "model_type": "llama", "vocab_size": 256, "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 2, "tie_word_embeddings": true,
        })
    }

    /// Its MLPs packed, with every block.
    pub fn model(dtype: DType) -> Model {
        let mut model =
            ModelFolder::new(config()).unwrap().config().init_normal(&Device::flex(), 1).unwrap();
        model.pack(&Blocks::new(8).with_sparsity(0.5)).unwrap();
        model.with_precision(Precision::of(dtype)).unwrap()
    }

    pub fn corpus() -> Corpus {
        let text = "the quick brown fox jumps over the lazy dog. ".repeat(20);
        let mut train = Tokenizer::Bytes.encode(&text).unwrap();
        let valid = train.split_off(800);
        Corpus { train, valid }
    }

    /// Pruning to half the blocks.
    pub fn blast() -> BlastConfig {
        BlastConfig::new(settings().steps).with_sparsity(0.5).with_interval(3)
    }

    /// Trains `start` on until `stop_at`, from the checkpoint of the run in `folder` if there is one.
    pub fn run(
        start: &Model,
        blast: Option<&BlastConfig>,
        teacher: Option<&Model>,
        folder: &TempDir,
        stop_at: usize,
    ) -> (Model, Log) {
        let (config, corpus) = (settings(), corpus());
        let out = folder.path().join("out");
        let unfinished = folder.path().join("out.run/log.json").exists();
        let mut folder =
            RunFolder::open(&out, json!(1), &[], corpus.fingerprint(), unfinished).unwrap();
        let trainee = Trainee::new(start.clone().train(), &config, blast, Some(&folder)).unwrap();
        let objective = Objective {
            next_token: 1.0,
            divergence: 0.5,
            temperature: 2.0,
            hidden_states: 0.1,
            mlps: 0.1,
            teacher: teacher.cloned(),
        };
        let session = Session { config: &config, corpus: &corpus, objective };
        let mut report = |progress: &Progress| match progress.step == stop_at {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let (trainee, done) = session.train(trainee, &mut folder, &mut report).unwrap();
        assert_eq!(done, stop_at >= config.steps);
        (trainee.into_model(), folder.log)
    }

    /// Every tensor of a checkpoint of the model, by its name.
    pub fn stored(model: &Model) -> BTreeMap<String, Vec<u8>> {
        let folder = tempdir().unwrap();
        let out = folder.path().join("out");
        ModelFolder::new(config()).unwrap().save(model, &out, Form::Packed).unwrap();
        let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
        tensors.into_iter().map(|(name, view)| (name, view.data().to_vec())).collect()
    }

    #[test]
    fn a_resumed_run_is_bitwise_the_unbroken_one_and_learns_in_either_precision() {
        for dtype in [DType::F32, DType::BF16] {
            let start = model(dtype);
            let (blast, teacher) = (blast(), Some(&start));
            let (unbroken, broken) = (tempdir().unwrap(), tempdir().unwrap());
            let (mut whole, log) = run(&start, Some(&blast), teacher, &unbroken, 12);
            let (_, stopped) = run(&start, Some(&blast), teacher, &broken, 5);
            // No entry of the loss curve and no evaluation was due before the stop.
            assert!(stopped.seconds > 0.0 && stopped.validation.is_empty());
            let (resumed, again) = run(&start, Some(&blast), teacher, &broken, 12);
            assert_eq!(whole.dtype(), dtype);
            assert_eq!(stored(&whole), stored(&resumed));
            assert_eq!(log.validation.last(), again.validation.last());
            assert!(again.seconds > stopped.seconds);
            let all = whole.mlps_mut(0).into_iter().map(|(_, linear)| linear.sparsity());
            assert_eq!(all.collect::<Vec<_>>(), [0.5; 6]);
            let losses: Vec<f64> = log.validation.iter().map(|(_, loss)| *loss).collect();
            assert!(losses[1] < losses[0], "{losses:?}");
        }
    }

    #[test]
    fn of_all_block_sparse_layers_only_the_mlps_asked_for_are_pruned() {
        let mut start = model(DType::F32);
        for (name, linear) in start.linears_mut() {
            if name.ends_with("q_proj") {
                linear.pack(8).unwrap();
            }
        }
        let blast = blast().with_dense(start.outside(&Blocks::new(8).with_dense_last(1)));
        let (mut tuned, _) = run(&start, Some(&blast), None, &tempdir().unwrap(), 12);
        let mut sparse = 0;
        for (name, linear) in tuned.linears_mut() {
            let pruned = name.starts_with("model.layers.0.mlp");
            assert_eq!(linear.sparsity(), if pruned { 0.5 } else { 0.0 }, "{name}");
            sparse += usize::from(linear.block_size().is_some());
        }
        assert_eq!(sparse, 3 + 3 + 2);
    }

    #[test]
    fn layers_that_stay_dense_are_packed_for_speed_alone() {
        let folder = tempdir().unwrap();
        let out = folder.path().join("out");
        let checkpoint = ModelFolder::new(config()).unwrap();
        let mut model = checkpoint.config().init_normal(&Device::flex(), 1).unwrap();
        model.pack(&Blocks::new(8).with_sparsity(0.5).with_dense_last(1)).unwrap();
        let before = model.clone();
        let config = settings().with_only_mlps(true);
        let blast = blast().with_dense(model.outside(&Blocks::new(8).with_dense_last(1)));
        let job = Job {
            config: &config,
            blast: Some(&blast),
            settings: json!(1),
            free: &[],
            out: &out,
            replace: false,
            form: Form::Packed,
            precision: Precision::File,
            resume: false,
        };
        let go = &mut |_: &Progress| ControlFlow::Continue(());
        assert!(job.run(&checkpoint, model, &corpus(), Objective::default(), go).unwrap());
        let tuned = ModelFolder::open(&out).unwrap();
        let mut tuned = tuned.load(&Device::flex(), Precision::File).unwrap();
        let mut before = before;
        for ((name, now), (_, old)) in tuned.linears_mut().into_iter().zip(before.linears_mut()) {
            let first = name.starts_with("model.layers.0.mlp");
            assert_eq!(now.block_size(), first.then_some(8), "{name}");
            assert_eq!(now.sparsity(), if first { 0.5 } else { 0.0 }, "{name}");
            let [now, old] = [now.to_dense(), old.to_dense()];
            let zeros = now.clone().equal_elem(0.0).int().sum().into_scalar::<i32>();
            assert!(first || zeros == 0, "{name}");
            assert_eq!(now.into_data() == old.into_data(), !name.contains(".mlp."), "{name}");
        }
    }

    #[test]
    fn dense_layers_learn_the_same_in_the_kernels_of_block_sparse_ones() {
        let corpus = corpus();
        let losses = |pack_dense: bool| {
            let config = settings().with_lr(1e-3).with_pack_dense(pack_dense);
            let (model, session) = (
                model(DType::F32),
                Session { config: &config, corpus: &corpus, objective: Objective::default() },
            );
            let mut trainee = Trainee::new(model.train(), &config, Some(&blast()), None).unwrap();
            let packed = |trainee: &mut Trainee| {
                let linears = trainee.model.linears_mut();
                linears.iter().filter(|(_, linear)| linear.block_size().is_some()).count()
            };
            assert_eq!(packed(&mut trainee), if pack_dense { 14 } else { 6 });
            let mut losses = Vec::new();
            for step in 0..config.steps {
                let loss: Tensor<1>;
                (trainee, loss) = trainee.step(step * config.accumulate, &session);
                losses.push(loss.into_scalar::<f32>());
            }
            let mut model = trainee.into_model();
            let dense: Vec<usize> = model
                .linears_mut()
                .iter()
                .map(|(_, linear)| linear.block_size().unwrap_or(0))
                .collect();
            assert_eq!(dense, [0, 0, 0, 0, 8, 8, 8].repeat(2));
            assert!(model.mlps_mut(0).iter().all(|(_, linear)| linear.sparsity() == 0.5));
            losses
        };
        let (ours, burn) = (losses(true), losses(false));
        assert!(burn[11] < burn[0]);
        for (ours, burn) in ours.iter().zip(&burn) {
            assert!((ours - burn).abs() < 1e-4 * burn, "{ours} {burn}");
        }
    }

    #[test]
    fn an_output_that_exists_is_refused_before_training() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        let mut job = Job {
            config: &settings(),
            blast: None,
            settings: json!(1),
            free: &[],
            out: folder.path(),
            replace: false,
            form: Form::Packed,
            precision: Precision::File,
            resume: false,
        };
        let checkpoint = ModelFolder::new(config()).unwrap();
        for (replace, part) in [(false, "is already there"), (true, "a checkpoint folder")] {
            job.replace = replace;
            let (model, objective) = (model(DType::F32), Objective::default());
            let never = &mut |_: &Progress| panic!("it trains");
            let error = job.run(&checkpoint, model, &corpus(), objective, never).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
