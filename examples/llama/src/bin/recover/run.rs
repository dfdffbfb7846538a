//! The two training runs, and the folder in which an interrupted one is found again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use burn::module::Module;
use burn_blast::BlastConfig;
use burn_blast::report::plot::{Series, line_chart};
use llama::{Checkpoint, Form, Model, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::adapt;
use crate::args::{DenseArgs, FineTuneArgs, SparsityArgs, TrainArgs};
use crate::data::Corpus;
use crate::objective::Objective;
use crate::train::{Session, Trainee};

/// A run so far, as `(step, value)`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Log {
    /// Settings, fixed for the life of the run.
    settings: Value,
    /// Of the corpus.
    fingerprint: u64,
    /// Optimizer steps done.
    pub steps: usize,
    /// Seconds of training.
    pub seconds: f64,
    /// Training loss, mean over the steps since the entry before.
    pub losses: Vec<(usize, f64)>,
    /// Loss of the next token on held-out text.
    pub validation: Vec<(usize, f64)>,
    /// Name of the last checkpoint.
    checkpoint: Option<String>,
}

/// What an unfinished run leaves beside its OUT.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Of the run.
    pub log: Log,
}

impl Folder {
    /// The folder of a run that starts, or of one that goes on.
    ///
    /// # Errors
    /// If there is an unfinished run without `resume`, or none with it, or it had other settings or texts.
    pub fn open(out: &Path, settings: Value, fingerprint: u64, resume: bool) -> Result<Self> {
        let mut name = out.file_name().context("OUT must name a folder")?.to_owned();
        name.push(".run");
        let path = out.with_file_name(name);
        ensure!(!out.exists(), "{} exists: choose another OUT, or remove it", out.display());
        let file = path.join("log.json");
        match (resume, file.exists()) {
            (false, true) => bail!(
                "{} holds an unfinished run: add --resume to go on with it, or remove it",
                path.display()
            ),
            (true, false) => bail!(
                "there is no unfinished run in {}: leave out --resume to start one",
                path.display()
            ),
            (false, false) => {
                fs::create_dir_all(&path)
                    .with_context(|| format!("cannot make the folder {}", path.display()))?;
                let log = Log { settings, fingerprint, ..Log::default() };
                Ok(Self { path, log })
            }
            (true, true) => {
                let log: Log = serde_json::from_slice(&fs::read(&file)?)
                    .with_context(|| format!("{} is damaged: start again", file.display()))?;
                ensure!(
                    log.settings == settings,
                    "the run in {} had other settings: go on with the same ones, or start another",
                    path.display()
                );
                ensure!(
                    log.fingerprint == fingerprint,
                    "the corpus is not the one the run in {} began with",
                    path.display()
                );
                Ok(Self { path, log })
            }
        }
    }

    /// Model and optimizer of the last checkpoint.
    pub fn checkpoint(&self) -> Option<(PathBuf, PathBuf)> {
        let folder = self.path.join(self.log.checkpoint.as_ref()?);
        Some((folder.join("model.bpk"), folder.join("optimizer.bpk")))
    }

    /// File for what pruning does.
    pub fn ledger(&self) -> PathBuf {
        self.path.join("ledger.jsonl")
    }

    /// Writes a checkpoint with `save`; it counts when it is whole, and the one before goes.
    ///
    /// # Errors
    /// If something cannot be written; the one before then still counts.
    pub fn save(&mut self, save: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<()> {
        let name = format!("step-{:06}", self.log.steps);
        let before = self.log.checkpoint.clone().filter(|before| *before != name);
        let folder = self.path.join(&name);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        save(&folder.join("model.bpk"), &folder.join("optimizer.bpk"))?;
        let log = Log { checkpoint: Some(name), ..self.log.clone() };
        let path = self.path.join("log.json");
        let write = || -> Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
            serde_json::to_writer(&mut file, &log)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        self.log = log;
        if let Some(before) = before {
            fs::remove_dir_all(self.path.join(before))?;
        }
        Ok(())
    }

    /// Moves what is worth keeping to `out` and removes the rest.
    fn finish(self, out: &Path) -> Result<()> {
        let mut log = self.log.clone();
        log.checkpoint = None;
        fs::write(out.join("recover.json"), serde_json::to_vec_pretty(&log)?)?;
        if self.ledger().exists() {
            fs::copy(self.ledger(), out.join("ledger.jsonl"))?;
        }
        let series = |name: &str, points: &[(usize, f64)]| Series {
            name: name.to_owned(),
            points: points.iter().map(|(step, value)| (*step as f64, *value)).collect(),
        };
        let curves = [series("training", &log.losses), series("held out", &log.validation)];
        line_chart(&out.join("loss.svg"), "Loss", "step", "nats per token", &curves)?;
        Ok(fs::remove_dir_all(&self.path)?)
    }
}

/// Trains a small Llama over bytes from scratch.
///
/// # Errors
/// If a setting is not valid, or a file cannot be read or written.
pub fn dense(args: &DenseArgs) -> Result<()> {
    check(&args.train)?;
    let checkpoint = Checkpoint::new(config(args))?;
    let device = args.train.backend.open()?;
    let corpus = Corpus::read(&args.train.text.corpus, &Tokenizer::Bytes, args.train.text.context)?;
    let model = checkpoint.fresh(&device, args.train.seed)?;
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
    let weights = [args.next_token, args.divergence, args.features];
    ensure!(
        weights.iter().all(|weight| *weight >= 0.0 && weight.is_finite())
            && (args.teacher.is_none() || weights.iter().any(|weight| *weight > 0.0)),
        "--next-token, --divergence and --features must not be negative, and one of them above 0"
    );
    ensure!(args.temperature > 0.0, "--temperature must be above 0");
    let checkpoint = Checkpoint::open(&args.model)?;
    let device = args.train.backend.open()?;
    let tokenizer = checkpoint.tokenizer()?;
    let corpus = Corpus::read(&args.train.text.corpus, &tokenizer, args.train.text.context)?;
    let mut model = checkpoint.load(&device, args.dtype.into())?;
    let teacher = args.teacher.as_ref().map(|folder| -> Result<Model> {
        let teacher = Checkpoint::open(folder)?.load(&device, args.dtype.into())?;
        let sizes = |model: &Model| (model.layers(), model.vocabulary());
        ensure!(
            sizes(&teacher) == sizes(&model),
            "the teacher has {:?} layers and tokens, the model {:?}: they must agree",
            sizes(&teacher),
            sizes(&model)
        );
        Ok(teacher)
    });
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
        .with_seed(args.train.seed);
    job.run(&checkpoint, model, &corpus, objective, Some(&blast))
}

/// Makes the MLPs of all but the last layers block-sparse.
///
/// # Errors
/// If none is left, or the block size is not supported.
pub fn pack_mlps(model: &mut Model, blocks: &SparsityArgs) -> Result<()> {
    for (_, linear) in model.mlps_mut(blocks.keep_last) {
        linear.pack(blocks.block)?;
    }
    Ok(())
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
    ensure!(args.lr > 0.0 && args.lr.is_finite(), "--lr must be above 0");
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
        checkpoint.save(&trainee.model.valid(), self.out, self.form)?;
        folder.finish(self.out)?;
        println!("{} is written", self.out.display());
        Ok(())
    }
}

fn stop_on_ctrl_c() -> Result<impl Fn() -> bool> {
    let stopped = Arc::new(AtomicBool::new(false));
    let flag = stopped.clone();
    ctrlc::set_handler(move || flag.store(true, Ordering::SeqCst))
        .context("Ctrl-C cannot be caught")?;
    Ok(move || stopped.load(Ordering::SeqCst))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tests::args;

    #[test]
    fn a_folder_is_refused_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let open = |settings: u32, fingerprint, resume| {
            Folder::open(&out, json!(settings), fingerprint, resume)
        };
        let refuse = |settings, fingerprint, resume| {
            open(settings, fingerprint, resume).unwrap_err().to_string()
        };
        assert!(refuse(1, 7, true).contains("leave out --resume"));
        let mut run = open(1, 7, false).unwrap();
        run.log.steps = 4;
        run.save(|model, _| Ok(fs::write(model, "weights")?)).unwrap();
        assert!(refuse(1, 7, false).contains("add --resume"));
        assert!(refuse(2, 7, true).contains("other settings"));
        assert!(refuse(1, 8, true).contains("the corpus is not the one"));
        let again = open(1, 7, true).unwrap();
        assert_eq!(again.log, run.log);
        assert_eq!(fs::read_to_string(again.checkpoint().unwrap().0).unwrap(), "weights");
        fs::create_dir(&out).unwrap();
        assert!(refuse(1, 7, true).contains("exists: choose another OUT"));
    }

    #[test]
    fn a_failed_save_leaves_the_checkpoint_before() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = Folder::open(&folder.path().join("out"), json!(1), 7, false).unwrap();
        run.save(|model, _| Ok(fs::write(model, "good")?)).unwrap();
        let good = run.log.clone();
        run.log.steps = 9;
        assert!(run.save(|_, _| bail!("the disk is full")).is_err());
        let again = Folder::open(&folder.path().join("out"), json!(1), 7, true).unwrap();
        assert_eq!(again.log, good);
        assert_eq!(fs::read_to_string(again.checkpoint().unwrap().0).unwrap(), "good");
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let refuse = |args: TrainArgs| check(&args).unwrap_err().to_string();
        assert!(refuse(TrainArgs { steps: 0, ..args() }).contains("--steps must be at least 1"));
        assert!(refuse(TrainArgs { lr: 0.0, ..args() }).contains("--lr must be above 0"));
        let blocks = SparsityArgs { sparsity: 1.0, block: 32, keep_last: 0 };
        let error = check_blocks(&blocks).unwrap_err().to_string();
        assert!(error.contains("--sparsity must be at least 0 and below 1, but is 1"));
    }
}
