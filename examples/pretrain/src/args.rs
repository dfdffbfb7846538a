//! What a run is asked to do: flags, a JSON file, or the run that is resumed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches, Parser, Subcommand};

use crate::config::Config;
use crate::store::Store;

/// Settings that may differ between a run and its continuation: they change no result on the same device.
const FREE_ON_RESUME: [&str; 2] = ["backend", "save_every"];

/// Trains a byte-level Llama-style model dense and block-sparse from the same start, and a narrower dense model of as
/// many parameters as the sparse one, and compares them.
#[derive(Parser, Clone, Debug)]
#[command(name = "pretrain", version, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Another job than one experiment.
    #[command(subcommand)]
    pub job: Option<Job>,

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

    /// Replace a finished run in the --out folder
    #[arg(long, conflicts_with = "resume")]
    pub force: bool,
}

/// Another job than one experiment.
#[derive(Subcommand, Clone, Debug)]
pub enum Job {
    /// Makes the runs of a plan, each with several seeds, and a table of them; a run that is done is not made again
    Study {
        /// JSON file with the runs
        plan: PathBuf,
        /// Folder for what came out
        #[arg(long, value_name = "DIR", default_value = "study-out")]
        out: PathBuf,
    },
}

impl Args {
    /// Reads the command line. The settings are put together from flags, JSON file and the resumed run.
    ///
    /// # Errors
    /// If a file cannot be read or names a setting that does not exist, if a setting cannot be trained with,
    /// or if a resumed run is asked to change.
    pub fn resolve(matches: &ArgMatches) -> Result<Self> {
        let mut args = Self::from_arg_matches(matches)?;
        if args.resume {
            args.config = resumed_config(&args, matches)?;
        } else if let Some(file) = &args.config_file {
            args.config = overlay(&read_config(file)?, &args.config, matches)?;
        }
        args.config.validate()?;
        Ok(args)
    }
}

/// The saved run's settings; a flag that asks for another experiment is an error.
fn resumed_config(args: &Args, matches: &ArgMatches) -> Result<Config> {
    let saved = Store::new(&args.out).state()?.config;
    let asked = overlay(&saved, &args.config, matches)?;
    // Checkpoints have the form in which the device trains.
    if saved.backend.is_host() != asked.backend.is_host() {
        bail!(
            "the run in {} was started on the backend {}, and goes on on {}: leave --backend out, or start another run with \
             another --out",
            args.out.display(),
            saved.backend.name(),
            if saved.backend.is_host() { "a CPU only" } else { "a GPU only" }
        );
    }
    let (before, after) = (serde_json::to_value(&saved)?, serde_json::to_value(&asked)?);
    for (name, value) in after.as_object().into_iter().flatten() {
        if before[name] != *value && !FREE_ON_RESUME.contains(&name.as_str()) {
            bail!(
                "the run in {} was started with {name} = {}, not {value}: leave the flag out to go on with it, \
                 or start another run with another --out",
                args.out.display(),
                before[name]
            );
        }
    }
    Ok(asked)
}

/// `base` with every flag that stands on the command line taken from `flags`.
fn overlay(base: &Config, flags: &Config, matches: &ArgMatches) -> Result<Config> {
    let (mut merged, flags) = (serde_json::to_value(base)?, serde_json::to_value(flags)?);
    for (name, value) in flags.as_object().into_iter().flatten() {
        if matches.value_source(name) == Some(ValueSource::CommandLine) {
            merged[name] = value.clone();
        }
    }
    Ok(serde_json::from_value(merged)?)
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

    fn config(flags: &[&str]) -> Result<Config> {
        let words = std::iter::once("pretrain").chain(flags.iter().copied());
        Ok(Args::resolve(&Args::command().try_get_matches_from(words)?)?.config)
    }

    fn message(flags: &[&str]) -> String {
        format!("{:#}", config(flags).expect_err("the flags are wrong"))
    }

    #[test]
    fn bad_values_are_refused_with_a_value_that_works() {
        for (flags, part) in [
            ("--d-model 100 --heads 3", "give a multiple of 6"),
            ("--sparsity 1", "below 1"),
            ("--block 48", "8, 16, 32, 64 or 128"),
            ("--dense-last 4", "give at most 3"),
            ("--steps 10", "longer than the 10"),
            ("--group-density 0.5", "needs --structure coupled"),
            ("--sparse attention --structure coupled", "add mlp"),
            ("--sparse mlp,tail", "attention"),
            ("--d-model 64 --sparse attention --block 64", "give a smaller one"),
            ("--batch 0", "batch is 0"),
            ("--lr 0", "lr is 0"),
            ("--end-fraction 2", "end_fraction is 2"),
            ("--context 1", "give at least 2"),
            ("--backend abacus", "flex"),
        ] {
            let text = message(&flags.split(' ').collect::<Vec<_>>());
            assert!(text.contains(part), "{flags}: {text}");
        }
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("run.json");
        std::fs::write(&file, r#"{"steps": 70, "batch": 3}"#).unwrap();
        let config = config(&["--config", file.to_str().unwrap(), "--batch", "8"]).unwrap();
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
