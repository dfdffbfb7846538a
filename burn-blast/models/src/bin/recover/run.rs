//! The two training runs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use burn::module::Module;
use burn_blast::prune::BlastConfig;
use burn_blast_models::{Checkpoint, Config, Form, Model};
use serde_json::{Value, json};

use crate::adapt;
use crate::args::{DenseArgs, FineTuneArgs, SparsityArgs, TrainArgs};
use crate::data::{Corpus, check_context};
use crate::folder::Folder;
use crate::objective::Objective;
use crate::train::{Session, Trainee};

/// Exit code of a process stopped by Ctrl-C.
const INTERRUPTED: i32 = 130;

/// Trains a small Llama over bytes from scratch.
///
/// # Errors
/// If a setting is not valid, or a file cannot be read or written.
pub fn dense(args: &DenseArgs) -> Result<()> {
    check(&args.train)?;
    let checkpoint = Checkpoint::new(config(args))?;
    let device = args.train.backend.open()?;
    let corpus = Corpus::of(&checkpoint, &args.train.text.corpus, args.train.text.context)?;
    let model = checkpoint.config().init_normal(&device, args.train.seed)?;
    println!("{} parameters", model.num_params());
    let settings = serde_json::to_value(args)?;
    let job = Job { args: &args.train, settings, out: &args.out, form: Form::Dense };
    job.run(&checkpoint, model, &corpus, Objective::default(), None)
}

/// `config.json` of a model over bytes.
fn config(args: &DenseArgs) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 256,
        "hidden_size": args.width,
        "intermediate_size": args.hidden,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "num_key_value_heads": args.kv_heads,
        "max_position_embeddings": args.train.text.context.max(1024),
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": true,
        "torch_dtype": "float32",
    })
}

/// Trains a checkpoint on while its MLP blocks go, or trains adapters beside those it keeps.
///
/// # Errors
/// If a setting is not valid, or a file cannot be read or written.
pub fn fine_tune(args: &FineTuneArgs) -> Result<()> {
    check(&args.train)?;
    check_blocks(&args.blocks)?;
    check_objective(args)?;
    let checkpoint = Checkpoint::open(&args.model)?;
    let device = args.train.backend.open()?;
    let corpus = Corpus::of(&checkpoint, &args.train.text.corpus, args.train.text.context)?;
    let mut model = checkpoint.load(&device, args.dtype.into())?;
    let teacher = args.teacher.as_ref();
    let teacher = teacher.map(|folder| teach(folder, args, checkpoint.config(), &model));
    let objective = Objective {
        next_token: args.next_token,
        divergence: args.divergence,
        temperature: args.temperature,
        features: args.features,
        teacher: teacher.transpose()?,
    };
    adapt::check_bare(&mut model)?;
    let settings = serde_json::to_value(args)?;
    let job = Job { args: &args.train, settings, out: &args.out, form: Form::Packed };
    if let Some(rank) = args.lora {
        let model = adapt::adapt(model, rank, args.lora_alpha, args.train.seed)?;
        return job.run(&checkpoint, model, &corpus, objective, None);
    }
    pack_mlps(&mut model, &args.blocks)?;
    let blast = BlastConfig::new(args.train.steps)
        .with_sparsity(args.blocks.sparsity)
        .with_interval(args.interval)
        .with_end_fraction(args.end_fraction)
        .with_growth(args.growth.into())
        .with_growth_fraction(args.growth_fraction)
        .with_dense(others(&mut model, args.blocks.keep_last))
        .with_seed(args.train.seed);
    job.run(&checkpoint, model, &corpus, objective, Some(&blast))
}

/// The model to learn from.
fn teach(folder: &Path, args: &FineTuneArgs, student: &Config, model: &Model) -> Result<Model> {
    let checkpoint = Checkpoint::open(folder)?;
    check_context(&checkpoint, args.train.text.context).context("the teacher is too short")?;
    let (theirs, ours) = (checkpoint.config().width(), student.width());
    ensure!(
        theirs == ours || args.features == 0.0,
        "the teacher's layers give {theirs} features, the model's {ours}: leave out --features, or take a teacher of \
         the same width"
    );
    let teacher = checkpoint.load(&model.device(), args.dtype.into())?;
    let sizes = |model: &Model| (model.layers(), model.vocabulary());
    ensure!(
        sizes(&teacher) == sizes(model),
        "the teacher has {:?} layers and tokens, the model {:?}: they must agree",
        sizes(&teacher),
        sizes(model)
    );
    Ok(teacher)
}

/// Names of the MLP weights of all but the last layers.
///
/// # Errors
/// If there are none.
pub fn mlp_names(model: &mut Model, keep_last: usize) -> Result<Vec<String>> {
    let layers = model.layers();
    ensure!(
        keep_last < layers,
        "--keep-last {keep_last} leaves none of the {layers} layers to make sparse: give at most {}",
        layers.saturating_sub(1)
    );
    Ok(model.mlps_mut(keep_last).into_iter().map(|(name, _)| name).collect())
}

/// Makes the MLPs of all but the last layers block-sparse.
///
/// # Errors
/// If none is left, one has blocks of another size already, or the block size is not supported.
pub fn pack_mlps(model: &mut Model, blocks: &SparsityArgs) -> Result<()> {
    mlp_names(model, blocks.keep_last)?;
    for (name, linear) in model.mlps_mut(blocks.keep_last) {
        let found = linear.block().unwrap_or(blocks.block);
        ensure!(
            found == blocks.block,
            "{name} is block-sparse already, in blocks of {found}: give --block {found}"
        );
        linear.pack(blocks.block)?;
    }
    Ok(())
}

/// Paths of the block-sparse layers outside the MLPs that are pruned, as `Blast` knows them: those stay as they are.
fn others(model: &mut Model, keep_last: usize) -> Vec<String> {
    // The variant of an enum module is part of a path.
    let variant = match model {
        Model::Llama(_) => "Llama",
        Model::Gpt2(_) => "Gpt2",
    };
    let pruned: Vec<String> = model.mlps_mut(keep_last).into_iter().map(|(name, _)| name).collect();
    let sparse = model.linears_mut().into_iter().filter(|(_, linear)| linear.block().is_some());
    let others = sparse.filter(|(name, _)| !pruned.contains(name));
    others.map(|(name, _)| format!("{variant}.{name}")).collect()
}

fn check(args: &TrainArgs) -> Result<()> {
    for (name, value) in [
        ("--steps", args.steps),
        ("--batch", args.text.batch),
        ("--context", args.text.context),
        ("--accumulate", args.accumulate),
        ("--eval-every", args.eval_every),
        ("--save-every", args.save_every),
    ] {
        ensure!(value > 0, "{name} must be at least 1");
    }
    let positive = |number: f64| number > 0.0 && number.is_finite();
    ensure!(positive(args.lr), "--lr must be above 0");
    ensure!(positive(args.clip.into()), "--clip must be above 0, but is {}", args.clip);
    ensure!(
        args.weight_decay >= 0.0 && args.weight_decay.is_finite(),
        "--weight-decay must be at least 0, but is {}",
        args.weight_decay
    );
    Ok(())
}

fn check_objective(args: &FineTuneArgs) -> Result<()> {
    let weights = [args.next_token, args.divergence, args.features];
    ensure!(
        weights.iter().all(|weight| *weight >= 0.0 && weight.is_finite())
            && weights.iter().any(|weight| *weight > 0.0),
        "--next-token, --divergence and --features must not be negative, and one of them above 0"
    );
    ensure!(
        args.temperature > 0.0 && args.temperature.is_finite(),
        "--temperature must be above 0, but is {}",
        args.temperature
    );
    Ok(())
}

/// Checks what cannot be checked by a type.
///
/// # Errors
/// If the sparsity is not a share that leaves something.
pub fn check_blocks(blocks: &SparsityArgs) -> Result<()> {
    ensure!(
        (0.0..1.0).contains(&blocks.sparsity),
        "--sparsity must be at least 0 and below 1, but is {}",
        blocks.sparsity
    );
    Ok(())
}

/// A training run.
struct Job<'a> {
    args: &'a TrainArgs,
    settings: Value,
    out: &'a Path,
    /// Of the checkpoint it ends with.
    form: Form,
}

impl Job<'_> {
    fn run(
        self,
        checkpoint: &Checkpoint,
        model: Model,
        corpus: &Corpus,
        objective: Objective,
        blast: Option<&BlastConfig>,
    ) -> Result<()> {
        let mut folder =
            Folder::open(self.out, self.settings, corpus.fingerprint(), self.args.resume)?;
        let device = model.device().autodiff();
        let trainee = Trainee::new(model.train(), self.args, blast, &folder)?;
        let session = Session { args: self.args, corpus, objective, device };
        let (trainee, done) = session.train(trainee, &mut folder, &stop_on_ctrl_c()?)?;
        if !done {
            println!("stopped after step {}: --resume goes on", folder.log.steps);
            return Ok(());
        }
        let model = trainee.model.valid();
        checkpoint.save_with(&model, self.out, self.form, |staged| folder.record(staged))?;
        folder.remove()?;
        println!("{} is written", self.out.display());
        Ok(())
    }
}

/// Says whether Ctrl-C was pressed; the second time it ends the process at once.
fn stop_on_ctrl_c() -> Result<impl Fn() -> bool> {
    let stopped = Arc::new(AtomicBool::new(false));
    let flag = stopped.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(INTERRUPTED);
        }
        eprintln!("\nStopping after this step and saving; Ctrl-C again stops at once.");
    })
    .context("Ctrl-C cannot be caught")?;
    Ok(move || stopped.load(Ordering::SeqCst))
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;

    use super::*;
    use crate::train::tests::{args, blast, model, run};

    #[test]
    fn of_all_block_sparse_layers_only_the_mlps_asked_for_are_pruned() {
        let folder = tempfile::tempdir().unwrap();
        let mut start = model(DType::F32);
        for (name, linear) in start.linears_mut() {
            if name.ends_with("q_proj") {
                linear.pack(8).unwrap();
            }
        }
        let blast = blast().with_dense(others(&mut start, 1));
        let (mut tuned, _) = run(&start, Some(&blast), None, &folder.path().join("out"), 12);
        let mut sparse = 0;
        for (name, linear) in tuned.linears_mut() {
            let pruned = name.starts_with("model.layers.0.mlp");
            assert_eq!(linear.sparsity(), if pruned { 0.5 } else { 0.0 }, "{name}");
            sparse += usize::from(linear.block().is_some());
        }
        assert_eq!(sparse, 3 + 3 + 2);
    }

    #[test]
    fn blocks_of_another_size_and_no_layer_at_all_are_refused() {
        let refuse = |block, keep_last| {
            let blocks = SparsityArgs { sparsity: 0.5, block, keep_last };
            pack_mlps(&mut model(DType::F32), &blocks).unwrap_err().to_string()
        };
        let error = refuse(16, 0);
        let start = "model.layers.0.mlp.gate_proj is block-sparse already, in blocks of 8";
        assert!(error.starts_with(start) && error.ends_with("give --block 8"), "{error}");
        let error = refuse(8, 2);
        assert!(error.contains("--keep-last 2 leaves none of the 2 layers"), "{error}");
        assert!(error.ends_with("give at most 1"), "{error}");
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let refuse = |args: TrainArgs| check(&args).unwrap_err().to_string();
        assert!(refuse(TrainArgs { steps: 0, ..args() }).contains("--steps must be at least 1"));
        assert!(refuse(TrainArgs { lr: 0.0, ..args() }).contains("--lr must be above 0"));
        let clip = refuse(TrainArgs { clip: f32::NAN, ..args() });
        assert_eq!(clip, "--clip must be above 0, but is NaN");
        let decay = refuse(TrainArgs { weight_decay: -0.5, ..args() });
        assert_eq!(decay, "--weight-decay must be at least 0, but is -0.5");
        let blocks = SparsityArgs { sparsity: 1.0, block: 32, keep_last: 0 };
        let error = check_blocks(&blocks).unwrap_err().to_string();
        assert!(error.contains("--sparsity must be at least 0 and below 1, but is 1"));
    }
}
