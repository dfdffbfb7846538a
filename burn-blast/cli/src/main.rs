//! `blast`: block-sparse models and checkpoints from the command line.
//!
//! The commands that work on models are in `model/`: they turn options (`args/`) into calls of [`burn_blast_models`].
//!
//! The others, on files, need no Burn. [`burn_blast_checkpoint`] reads and writes the files, tensor by tensor, so a
//! checkpoint may be larger than memory. One weight, from file to file:
//!
//! 1. [`select`] picks the weights of a [`Checkpoint`](burn_blast_checkpoint::Checkpoint).
//! 2. [`score`] ranks their blocks, with the norms of their inputs if there are any.
//! 3. [`sparsify`] says how many blocks each keeps, by the rules of training ([`burn_blast_kernels::budget`]), and
//!    which, and writes them.
//! 4. [`densify`], [`inspect`], [`verify`] and [`diff`] read them again.

mod args;
mod densify;
mod diff;
mod error;
mod inspect;
mod model;
mod paths;
mod progress;
mod report;
mod score;
mod select;
mod sparsify;
mod verify;

use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use burn_blast_models::fine_tune::{INTERRUPTED, Signals};
use serde::Serialize;

use args::{Cli, Command, JsonArgs};
use error::Error;
use progress::Progress;

/// Exit code if nothing is wrong.
const FINE: u8 = 0;

/// Exit code if `verify` found problems, or `diff` differences.
const FOUND: u8 = 1;

/// Exit code for wrong usage or unusable input; clap's own errors end with it too.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    burn_blast_models::keep_memory();
    let written = run(&Cli::read()).and_then(|(text, code)| {
        let said = if text.is_empty() { Ok(()) } else { writeln!(std::io::stdout(), "{text}") };
        match said {
            // Whoever reads may stop early, as `head` does. A run that was stopped may have lost its terminal.
            Err(error) if error.kind() != ErrorKind::BrokenPipe && code != INTERRUPTED => {
                Err(error.into())
            }
            _ => Ok(code),
        }
    });
    match written {
        Ok(code) => code.into(),
        // `generate` writes as it goes.
        Err(Error::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            progress::say(&format!("error: {error}"));
            ExitCode::from(UNUSABLE)
        }
    }
}

/// Runs a command; returns what is to be printed, if anything, and the exit code.
fn run(cli: &Cli) -> Result<(String, u8), Error> {
    let progress = Progress::new(cli.quiet);
    let signals = Signals::listen()?;
    let fine = |text| (text, FINE);
    Ok(match &cli.command {
        Command::Sparsify(args) => fine(text(&sparsify::sparsify(args, &progress)?, args.format)),
        Command::Inspect(args) => fine(text(&inspect::inspect(args, &progress)?, args.format)),
        Command::Densify(args) => fine(text(&densify::densify(args, &progress)?, args.format)),
        Command::Verify(args) => {
            let report = verify::verify(&args.path, &progress)?;
            (text(&report, args.format), if report.problems.is_empty() { FINE } else { FOUND })
        }
        Command::Diff(args) => {
            let report = diff::diff(&args.a, &args.b, &progress)?;
            (text(&report, args.format), if report.same() { FINE } else { FOUND })
        }
        Command::Generate(args) => fine(model::generate(args).map(|()| String::new())?),
        Command::Perplexity(args) => fine(text(&model::perplexity(args, &progress)?, args.format)),
        Command::Bench(args) => fine(text(&model::bench(args)?, args.format)),
        Command::Measure(args) => fine(text(&model::measure(args, &progress)?, args.format)),
        Command::Activations(args) => fine(model::activations(args, &progress)?),
        Command::Compact(args) => fine(text(&model::compact(args)?, args.format)),
        Command::Dense(args) => model::dense(args, &signals, &progress)?,
        Command::OneShot(args) => fine(model::one_shot(args, &progress)?),
        Command::FineTune(args) => model::fine_tune(args, &signals, &progress)?,
        Command::Recover(args) => model::recover(args, &signals, &progress)?,
        Command::Merge(args) => fine(model::merge(args, &progress)?),
    })
}

fn text(report: &(impl Serialize + Display), format: JsonArgs) -> String {
    match format.json {
        true => serde_json::to_string_pretty(report).expect("names and finite numbers only"),
        false => report.to_string(),
    }
}
