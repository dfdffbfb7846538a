//! The training loop of both runs: batches, loss, optimizer, evaluation, checkpoints.

use std::time::Instant;

use anyhow::{Result, ensure};
use burn::grad_clipping::GradientClippingConfig;
use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::{DType, Device, Tensor};
use burn_blast::io;
use burn_blast::prune::{Blast, BlastConfig};
use burn_blast::prune::{BlockOptimizer, MasterWeights, Monitor};
use burn_blast_models::Model;
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::TrainArgs;
use crate::data::{Batch, Corpus};
use crate::folder::{Folder, Log};
use crate::loss;
use crate::objective::{Objective, scores};
use crate::schedule::learning_rate;

/// Steps between two entries of the loss curve.
const LOG_EVERY: usize = 10;

/// Mean loss of the next token over batches, in nats.
///
/// # Errors
/// If the device does not return it.
pub fn evaluate(model: &Model, batches: &[Batch]) -> Result<f64> {
    let (mut sum, mut tokens) = (0.0, 0);
    for batch in batches {
        let count = batch.targets.dims()[0];
        let loss = loss::next_token(scores(model, batch), batch.targets.clone());
        sum += read(vec![loss])?[0] * count as f64;
        tokens += count;
    }
    Ok(sum / tokens as f64)
}

/// A model with the optimizer that trains it.
pub struct Trainee {
    /// The model, on a device with autodiff.
    pub model: Model,
    optimizer: ModuleOptimizer,
    monitor: Option<Monitor>,
}

impl Trainee {
    /// AdamW around `model`, which is as it was before the first step, with pruning if asked for, brought to where
    /// the log stands.
    ///
    /// # Errors
    /// If pruning cannot be set up or a checkpoint cannot be read.
    pub fn new(
        mut model: Model,
        args: &TrainArgs,
        blast: Option<&BlastConfig>,
        folder: &Folder,
    ) -> Result<Self> {
        if let Some((path, _)) = folder.checkpoint() {
            model = io::load(model, path)?;
        }
        let adamw = AdamWConfig::new().with_beta_2(0.95).with_epsilon(1e-8);
        let adamw = adamw.with_weight_decay(args.weight_decay);
        let (model, optimizer, monitor) = match model.dtype() {
            // Weights of their own precision need no copies, and state without them is what earlier runs wrote.
            DType::F32 => optimize(model, adamw.build(), blast, folder)?,
            _ => optimize(model, MasterWeights::new(adamw.build()), blast, folder)?,
        };
        // On the first of the optimizer's groups: the others, the probes of the pruned layers, are no weights. Removed
        // blocks have no gradient, so what is clipped is that of the kept ones.
        let clipping = GradientClippingConfig::Norm(args.clip).init();
        let mut optimizer = optimizer.with_grad_clipping(clipping);
        if let Some((_, path)) = folder.checkpoint() {
            optimizer = io::load_optimizer(optimizer, &model, path)?;
        }
        Ok(Self { model, optimizer, monitor })
    }

    /// One optimizer step on the batches from number `first` on. Returns their mean loss, still on the device.
    fn step(mut self, first: usize, session: &Session) -> (Self, Tensor<1>) {
        let Session { args, corpus, objective, device } = session;
        let mut gradients = GradientsAccumulator::new();
        let mut total: Option<Tensor<1>> = None;
        for number in first..first + args.accumulate {
            let batch = corpus.batch(&args.text, args.seed, number, device);
            let loss = objective.loss(&self.model, &batch).div_scalar(args.accumulate as f64);
            let value = loss.clone().inner();
            total = Some(total.map_or(value.clone(), |total| total + value));
            let grads = GradientsParams::from_grads(loss.backward(), &self.model);
            gradients.accumulate(&self.model, grads);
        }
        let lr = learning_rate(first / args.accumulate, args);
        self.model = self.optimizer.step(lr, self.model, gradients.grads());
        (self, total.expect("at least one batch is summed up"))
    }

    /// Writes model and optimizer.
    fn save(&self, folder: &mut Folder) -> Result<()> {
        folder.save(|model, optimizer| {
            io::save(&self.model, model)?;
            Ok(io::save_optimizer(&self.optimizer, optimizer)?)
        })
    }
}

/// The optimizer of a model, with pruning if asked for.
fn optimize<O: BlockOptimizer>(
    model: Model,
    inner: O,
    blast: Option<&BlastConfig>,
    folder: &Folder,
) -> Result<(Model, ModuleOptimizer, Option<Monitor>)> {
    let Some(config) = blast else { return Ok((model, ModuleOptimizer::from(inner), None)) };
    let blast = Blast::new(inner, config.clone()).with_ledger(folder.ledger())?;
    let monitor = blast.monitor();
    let (model, optimizer) = blast.attach(model)?;
    Ok((model, optimizer, Some(monitor)))
}

/// What a run works with.
pub struct Session<'a> {
    /// Settings.
    pub args: &'a TrainArgs,
    /// Texts.
    pub corpus: &'a Corpus,
    /// What is minimised.
    pub objective: Objective,
    /// With autodiff.
    pub device: Device,
}

impl Session<'_> {
    /// Trains to the end, or until `stop` says so; says whether it is done.
    ///
    /// # Errors
    /// If a file cannot be written, or the loss is no longer a number.
    pub fn train(
        &self,
        mut trainee: Trainee,
        folder: &mut Folder,
        stop: &dyn Fn() -> bool,
    ) -> Result<(Trainee, bool)> {
        let args = self.args;
        let held_out = self.corpus.held_out(&args.text, &self.device.clone().inner());
        let bar = progress_bar(args.steps, folder.log.steps);
        let mut pending = Vec::new();
        let mut clock = Instant::now();
        while folder.log.steps < args.steps {
            if stop() {
                drain(&mut pending, &mut clock, &mut folder.log)?;
                trainee.save(folder)?;
                bar.abandon();
                return Ok((trainee, false));
            }
            let loss;
            (trainee, loss) = trainee.step(folder.log.steps * args.accumulate, self);
            pending.push(loss);
            folder.log.steps += 1;
            bar.inc(1);
            let (step, last) = (folder.log.steps, folder.log.steps == args.steps);
            let evaluates = step.is_multiple_of(args.eval_every) || last;
            if step.is_multiple_of(LOG_EVERY) || evaluates {
                drain(&mut pending, &mut clock, &mut folder.log)?;
                bar.set_message(describe(&trainee, &folder.log));
            }
            if evaluates {
                let valid = evaluate(&trainee.model.valid(), &held_out)?;
                folder.log.validation.push((step, valid));
                let line = format!(
                    "step {step}: {}, held out {valid:.4}",
                    describe(&trainee, &folder.log)
                );
                bar.suspend(|| println!("{line}"));
                clock = Instant::now();
            }
            if step.is_multiple_of(args.save_every) || last {
                drain(&mut pending, &mut clock, &mut folder.log)?;
                trainee.save(folder)?;
                clock = Instant::now();
            }
        }
        bar.finish_and_clear();
        Ok((trainee, true))
    }
}

fn describe(trainee: &Trainee, log: &Log) -> String {
    let loss = log.losses.last().map_or(f64::NAN, |(_, loss)| *loss);
    match &trainee.monitor {
        Some(monitor) => {
            format!("loss {loss:.4}, {:.1} % sparse", 100.0 * monitor.snapshot().sparsity)
        }
        None => format!("loss {loss:.4}"),
    }
}

/// Reads the losses of the last steps in one go, since each one at once would stall a GPU, and counts the time they took
/// by `clock`, which starts again.
fn drain(pending: &mut Vec<Tensor<1>>, clock: &mut Instant, log: &mut Log) -> Result<()> {
    if pending.is_empty() {
        return Ok(());
    }
    let losses = read(std::mem::take(pending))?;
    log.seconds += clock.elapsed().as_secs_f64();
    *clock = Instant::now();
    let mean = losses.iter().sum::<f64>() / losses.len() as f64;
    ensure!(
        mean.is_finite(),
        "the loss is no longer a number at step {}: try again with a lower --lr",
        log.steps
    );
    log.losses.push((log.steps, mean));
    Ok(())
}

pub fn read(scalars: Vec<Tensor<1>>) -> Result<Vec<f64>> {
    let values = Tensor::cat(scalars, 0).into_data().convert::<f32>().try_to_vec::<f32>();
    let values =
        values.map_err(|error| anyhow::anyhow!("the device did not return the loss: {error:?}"))?;
    Ok(values.into_iter().map(f64::from).collect())
}

fn progress_bar(steps: usize, done: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64).with_position(done as u64);
    let template = "{bar:30} {pos}/{len}, {msg}, {eta} left";
    bar.set_style(ProgressStyle::with_template(template).expect("the template is valid"));
    bar.reset_eta();
    bar
}

#[cfg(test)]
pub mod tests {
    use std::cell::Cell;
    use std::path::Path;

    use burn::module::{ModuleMapper, Param};
    use burn_blast_models::{Checkpoint, Tokenizer};
    use serde_json::json;

    use super::*;
    use crate::args::{Decay, SparsityArgs, TextArgs};
    use crate::run::pack_mlps;

    /// Settings of a short run.
    pub fn args() -> TrainArgs {
        TrainArgs {
            text: TextArgs { corpus: "".into(), context: 16, batch: 2 },
            backend: burn_blast_models::Backend::Flex,
            steps: 12,
            accumulate: 2,
            lr: 1e-2,
            decay: Decay::Cosine,
            warm_up: 2,
            clip: 1.0,
            weight_decay: 0.0,
            eval_every: 6,
            save_every: 6,
            seed: 3,
            resume: false,
        }
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
            Checkpoint::new(config()).unwrap().config().init_normal(&Device::flex(), 1).unwrap();
        pack_mlps(&mut model, &SparsityArgs { sparsity: 0.5, block: 8, keep_last: 0 }).unwrap();
        model.map(&mut Cast(dtype))
    }

    struct Cast(DType);

    impl ModuleMapper for Cast {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| tensor.cast(self.0))
        }
    }

    pub fn corpus() -> Corpus {
        let text = "the quick brown fox jumps over the lazy dog. ".repeat(20);
        let mut train = Tokenizer::Bytes.encode(&text).unwrap();
        let valid = train.split_off(800);
        Corpus { train, valid }
    }

    /// Pruning to half the blocks.
    pub fn blast() -> BlastConfig {
        BlastConfig::new(args().steps).with_sparsity(0.5).with_interval(3)
    }

    /// Trains `start` on until `stop_at`, from the folder's checkpoint if it has one.
    pub fn run(
        start: &Model,
        blast: Option<&BlastConfig>,
        teacher: Option<&Model>,
        out: &Path,
        stop_at: usize,
    ) -> (Model, Log) {
        let (args, corpus) = (args(), corpus());
        let unfinished = out.with_file_name("out.run").join("log.json").exists();
        let mut folder = Folder::open(out, json!(1), corpus.fingerprint(), unfinished).unwrap();
        let trainee = Trainee::new(start.clone().train(), &args, blast, &folder).unwrap();
        let objective = Objective {
            next_token: 1.0,
            divergence: 0.5,
            temperature: 2.0,
            features: 0.1,
            teacher: teacher.cloned(),
        };
        let session =
            Session { args: &args, corpus: &corpus, objective, device: trainee.model.device() };
        let left = Cell::new(stop_at - folder.log.steps);
        let stop = || left.replace(left.get().wrapping_sub(1)) == 0;
        let (trainee, done) = session.train(trainee, &mut folder, &stop).unwrap();
        assert_eq!(done, stop_at >= args.steps);
        (trainee.model.valid(), folder.log)
    }

    fn weights(model: &mut Model) -> Vec<f32> {
        let dense = |(_, linear): (String, &mut burn_blast::module::AnyLinear)| {
            linear.to_dense().into_data()
        };
        model
            .linears_mut()
            .into_iter()
            .flat_map(|one| dense(one).iter::<f32>().collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn a_resumed_run_is_bitwise_the_unbroken_one_and_learns() {
        resumes_bitwise(DType::F32);
    }

    #[test]
    fn so_is_one_in_half_precision() {
        resumes_bitwise(DType::BF16);
    }

    fn resumes_bitwise(dtype: DType) {
        let (start, folder) = (model(dtype), tempfile::tempdir().unwrap());
        let path = |name: &str| {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            folder.path().join(name).join("out")
        };
        let unbroken = path("unbroken");
        let (blast, teacher) = (blast(), Some(&start));
        let (mut whole, log) = run(&start, Some(&blast), teacher, &unbroken, 12);
        let broken = path("broken");
        let (_, stopped) = run(&start, Some(&blast), teacher, &broken, 5);
        // No entry of the loss curve and no evaluation was due before the stop.
        assert!(stopped.seconds > 0.0 && stopped.validation.is_empty());
        let (mut resumed, again) = run(&start, Some(&blast), teacher, &broken, 12);
        assert_eq!(whole.dtype(), dtype);
        assert_eq!(weights(&mut whole), weights(&mut resumed));
        assert_eq!(log.validation.last(), again.validation.last());
        assert!(again.seconds > stopped.seconds);
        let all: Vec<f64> =
            whole.mlps_mut(0).into_iter().map(|(_, linear)| linear.sparsity()).collect();
        assert_eq!(all, [0.5; 6]);
        let losses: Vec<f64> = log.validation.iter().map(|(_, loss)| *loss).collect();
        assert!(losses[1] < losses[0], "{losses:?}");
    }
}
