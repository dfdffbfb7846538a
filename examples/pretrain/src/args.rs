//! What a run is asked to do: flags, a JSON file, or the run that is resumed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use burn_blast::prune::{BlastConfig, Growth};
use burn_blast_models::fine_tune::TrainConfig;
use burn_blast_models::{BackendKind, Blocks, Sequences};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, FromArgMatches, Parser};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::store::Store;

/// Block sizes the library has kernels for.
const BLOCKS: [usize; 5] = [8, 16, 32, 64, 128];

/// Share of the steps in which the learning rate rises.
const WARM_UP: f64 = 0.05;

/// Steps between two entries of the loss curve.
const LOG_EVERY: usize = 5;

/// Evaluations during a run, the last one at its end.
const EVALUATIONS: usize = 5;

/// Validation batches of one evaluation.
const VALIDATION_BATCHES: usize = 16;

/// Settings that may differ between a run and its continuation: they change no result on the same device.
const FREE_ON_RESUME: [&str; 2] = ["backend", "save_every"];

/// Trains a byte-level Llama-style model dense and block-sparse from the same start, and compares them.
#[derive(Parser, Debug)]
#[command(name = "pretrain", version)]
pub struct Args {
    /// Every setting of the experiment itself.
    #[command(flatten)]
    pub config: Config,

    /// JSON file with the same settings; flags given here win over it
    #[arg(long = "config", value_name = "FILE", conflicts_with = "resume")]
    pub config_file: Option<PathBuf>,

    /// Folder for checkpoints, reports and plots
    #[arg(long, value_name = "DIR", default_value = "pretrain-out")]
    pub out: PathBuf,

    /// Go on with the interrupted run in the --out folder
    #[arg(long)]
    pub resume: bool,
}

/// Every setting of the experiment. Its defaults are the defaults of the flags.
#[derive(clap::Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to compute; each one needs the cargo feature of the same name
    #[arg(long, value_enum, default_value_t = BackendKind::Flex)]
    pub backend: BackendKind,

    /// Text to train on, a file or a folder [default: Rust sources of the dependencies]
    #[arg(long, value_name = "FILE|DIR")]
    pub corpus: Option<PathBuf>,

    /// Share of the MLP weight blocks that is removed
    #[arg(long, default_value_t = 0.9)]
    pub sparsity: f64,

    /// Rows and columns of a weight block: 8, 16, 32, 64 or 128
    #[arg(long, default_value_t = 32)]
    pub block: usize,

    /// Optimizer steps of each of the two runs
    #[arg(long, default_value_t = 300)]
    pub steps: usize,

    /// Sequences in a batch; `blast` takes 8 by default
    #[arg(long, default_value_t = 6)]
    pub batch: usize,

    /// Bytes in a sequence
    #[arg(long, default_value_t = 128)]
    pub context: usize,

    /// Width of the model
    #[arg(long, default_value_t = 256)]
    pub d_model: usize,

    /// Width inside the gated MLPs
    #[arg(long, default_value_t = 768)]
    pub d_ff: usize,

    /// Transformer layers
    #[arg(long, default_value_t = 4)]
    pub layers: usize,

    /// Attention heads
    #[arg(long, default_value_t = 4)]
    pub heads: usize,

    /// Highest learning rate
    #[arg(long, default_value_t = 1e-3)]
    pub lr: f64,

    /// Seed of the weights, the batches and the generated text
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// How removed blocks come back while pruning goes on
    #[arg(long, value_enum, default_value_t = Growth::Gradient)]
    pub growth: Growth,

    /// Optimizer steps between two changes of the block pattern; `blast` takes 25 by default
    #[arg(long, default_value_t = 20)]
    pub interval: usize,

    /// Share of the steps after which the pattern is final
    #[arg(long, default_value_t = 0.7)]
    pub end_fraction: f64,

    /// Last layers whose MLP stays dense; `blast` leaves none by default
    #[arg(long, default_value_t = 1)]
    pub dense_last: usize,

    /// Optimizer steps between two checkpoints
    #[arg(long, default_value_t = 100)]
    pub save_every: usize,
}

impl Default for Config {
    fn default() -> Self {
        let command = <Self as clap::Args>::augment_args(Command::new("defaults"));
        let matches = command.get_matches_from(["defaults"]);
        Self::from_arg_matches(&matches).expect("every setting without a default is optional")
    }
}

impl Config {
    /// Refuses settings that cannot be trained with.
    ///
    /// # Errors
    /// A sentence naming the flag and a value that works.
    pub fn validate(&self) -> Result<()> {
        for (flag, value) in [
            ("--steps", self.steps),
            ("--batch", self.batch),
            ("--d-model", self.d_model),
            ("--d-ff", self.d_ff),
            ("--layers", self.layers),
            ("--heads", self.heads),
            ("--interval", self.interval),
            ("--save-every", self.save_every),
        ] {
            ensure!(value > 0, "{flag} is 0: give at least 1");
        }
        ensure!(self.context >= 2, "--context is {}: give at least 2 bytes", self.context);
        ensure!(
            (0.0..1.0).contains(&self.sparsity),
            "--sparsity is {}: give a share from 0 up to, but not including, 1, such as 0.9",
            self.sparsity
        );
        ensure!(
            BLOCKS.contains(&self.block),
            "--block is {}: give one of 8, 16, 32, 64 or 128",
            self.block
        );
        ensure!(
            self.d_model.is_multiple_of(2 * self.heads),
            "--d-model {} cannot be shared by --heads {}: give a multiple of {}, twice the number of heads, \
             because each head rotates its values in pairs",
            self.d_model,
            self.heads,
            2 * self.heads
        );
        ensure!(
            self.dense_last < self.layers,
            "--dense-last {} leaves none of the {} layers to prune: give at most {}",
            self.dense_last,
            self.layers,
            self.layers - 1
        );
        ensure!(
            self.interval <= self.steps,
            "--interval {} is longer than the whole run of {} steps: give a shorter one, or more --steps",
            self.interval,
            self.steps
        );
        ensure!(
            self.end_fraction > 0.0 && self.end_fraction <= 1.0,
            "--end-fraction is {}: give a share above 0 and up to 1, such as 0.7",
            self.end_fraction
        );
        ensure!(
            self.lr.is_finite() && self.lr > 0.0,
            "--lr is {}: give a positive number such as 0.001",
            self.lr
        );
        Ok(())
    }

    /// The training of both runs.
    pub fn train(&self) -> TrainConfig {
        TrainConfig::new(self.steps)
            .with_sequences(Sequences { context: self.context, batch: self.batch })
            .with_lr(self.lr)
            .with_warm_up((self.steps as f64 * WARM_UP).max(1.0))
            .with_log_every(LOG_EVERY)
            .with_eval_every((self.steps / EVALUATIONS).max(1))
            .with_evaluated(VALIDATION_BATCHES * self.batch)
            .with_save_every(self.save_every)
            .with_seed(self.seed)
    }

    /// The blocks that the sparse run removes in the end.
    pub fn blocks(&self) -> Blocks {
        Blocks::new(self.block).with_sparsity(self.sparsity).with_dense_last(self.dense_last)
    }

    /// The pruning of the sparse run.
    pub fn blast(&self) -> BlastConfig {
        BlastConfig::new(self.steps)
            .with_sparsity(self.sparsity)
            .with_interval(self.interval)
            .with_end_fraction(self.end_fraction)
            .with_growth(self.growth)
            .with_seed(self.seed)
    }

    /// Layers whose MLP is pruned.
    pub fn sparse_layers(&self) -> usize {
        self.layers - self.dense_last
    }

    /// Bytes one optimizer step trains on, which is also the number of rows the MLPs multiply.
    pub fn tokens_per_step(&self) -> usize {
        self.batch * self.context
    }
}

/// A checked request: settings, folder, and whether to go on with the run there.
#[derive(Debug)]
pub struct Request {
    /// The experiment.
    pub config: Config,
    /// Folder for everything that is written.
    pub out: PathBuf,
    /// Go on with the run in `out`.
    pub resume: bool,
}

impl Request {
    /// Puts flags, JSON file and the resumed run together.
    ///
    /// # Errors
    /// If a file cannot be read or names a setting that does not exist, if a setting cannot be trained with,
    /// or if a resumed run is asked to change.
    pub fn from_matches(matches: &ArgMatches) -> Result<Self> {
        let args = Args::from_arg_matches(matches)?;
        let config = match (&args.config_file, args.resume) {
            (_, true) => resumed_config(&args, matches)?,
            (Some(file), false) => overlay(&read_config(file)?, &args.config, matches)?,
            (None, false) => args.config,
        };
        config.validate()?;
        Ok(Self { config, out: args.out, resume: args.resume })
    }
}

/// The saved run's settings; a flag that asks for another experiment is an error.
fn resumed_config(args: &Args, matches: &ArgMatches) -> Result<Config> {
    let saved = Store::new(&args.out).state()?.config;
    let asked = overlay(&saved, &args.config, matches)?;
    let (before, after) = (object(&saved)?, object(&asked)?);
    for (name, value) in &after {
        if before.get(name) != Some(value) && !FREE_ON_RESUME.contains(&name.as_str()) {
            bail!(
                "the run in {} was started with {name} = {}, not {value}: leave the flag out to go on with it, \
                 or start another run with another --out",
                args.out.display(),
                before.get(name).unwrap_or(&Value::Null)
            );
        }
    }
    Ok(asked)
}

/// `base` with every flag that stands on the command line taken from `flags`.
fn overlay(base: &Config, flags: &Config, matches: &ArgMatches) -> Result<Config> {
    let mut merged = object(base)?;
    for (name, value) in object(flags)? {
        if matches.value_source(&name) == Some(ValueSource::CommandLine) {
            merged.insert(name, value);
        }
    }
    Ok(serde_json::from_value(Value::Object(merged))?)
}

fn object(config: &Config) -> Result<Map<String, Value>> {
    match serde_json::to_value(config)? {
        Value::Object(map) => Ok(map),
        other => bail!("settings are written as a JSON object, not as {other}"),
    }
}

fn read_config(path: &Path) -> Result<Config> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the settings file {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| {
        format!("{} is not a JSON object with the settings that --help lists", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn request(flags: &[&str]) -> Result<Request> {
        let words = std::iter::once("pretrain").chain(flags.iter().copied());
        Request::from_matches(&Args::command().try_get_matches_from(words)?)
    }

    fn message(flags: &[&str]) -> String {
        format!("{:#}", request(flags).expect_err("the flags are wrong"))
    }

    #[test]
    fn flags_and_config_have_the_same_defaults() {
        assert_eq!(request(&[]).unwrap().config, Config::default());
    }

    #[test]
    fn bad_values_are_refused_with_a_value_that_works() {
        assert!(message(&["--d-model", "100", "--heads", "3"]).contains("give a multiple of 6"));
        assert!(message(&["--sparsity", "1"]).contains("such as 0.9"));
        assert!(message(&["--block", "48"]).contains("8, 16, 32, 64 or 128"));
        assert!(message(&["--dense-last", "4"]).contains("give at most 3"));
        assert!(message(&["--steps", "10"]).contains("--interval 20 is longer"));
        assert!(message(&["--batch", "0"]).contains("--batch is 0"));
        assert!(message(&["--lr", "0"]).contains("--lr is 0"));
        assert!(message(&["--end-fraction", "0"]).contains("--end-fraction is 0"));
        assert!(message(&["--context", "1"]).contains("at least 2 bytes"));
        assert!(message(&["--backend", "abacus"]).contains("flex"));
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("run.json");
        std::fs::write(&file, r#"{"steps": 70, "batch": 3}"#).unwrap();
        let config = request(&["--config", file.to_str().unwrap(), "--batch", "8"]).unwrap().config;
        assert_eq!((config.steps, config.batch, config.layers), (70, 8, 4));
    }

    #[test]
    fn a_setting_that_does_not_exist_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("run.json");
        std::fs::write(&file, r#"{"stepz": 7}"#).unwrap();
        assert!(message(&["--config", file.to_str().unwrap()]).contains("stepz"));
    }

    #[test]
    fn resuming_without_a_run_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let text = message(&["--resume", "--out", dir.path().to_str().unwrap()]);
        assert!(text.contains("no run to go on with"), "{text}");
    }
}
