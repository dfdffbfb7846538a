//! Checkpoints with block-sparse weights, on the command line: the library behind the program `blast`.
//!
//! These commands need no Burn. [`burn_blast_checkpoint`] reads and writes the files, tensor by tensor, so a checkpoint
//! may be larger than memory. One weight, from file to file:
//!
//! 1. [`select`] picks the weights of a [`Checkpoint`](burn_blast_checkpoint::Checkpoint).
//! 2. [`score`] ranks their blocks, with [`activations`] if there are any.
//! 3. [`sparsify`] says how many blocks each keeps, by the rules of training ([`burn_blast_kernels::budget`]), and which,
//!    and writes them.
//! 4. [`densify`], [`inspect`], [`verify`] and [`diff`] read them again.

pub mod activations;
pub mod args;
pub mod densify;
pub mod diff;
mod error;
pub mod inspect;
pub mod progress;
pub mod report;
pub mod score;
pub mod select;
pub mod sparsify;
pub mod verify;

use std::fmt::Display;
use std::process::ExitCode;

use serde::Serialize;

use args::{Cli, Command};
pub use error::Error;
use progress::Progress;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Nothing is wrong.
    Fine,
    /// `verify` found problems, or `diff` differences.
    Found,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        match status {
            Status::Fine => Self::SUCCESS,
            Status::Found => Self::from(1),
        }
    }
}

/// Runs a command; returns what is to be printed and how it ended.
///
/// # Errors
/// If the request cannot be carried out.
pub fn run(cli: &Cli) -> Result<(String, Status), Error> {
    let progress = Progress::new();
    Ok(match &cli.command {
        Command::Sparsify(args) => {
            let request = args.request()?;
            let report = sparsify::sparsify(&args.input, &args.output, &request, &progress)?;
            (text(&report, args.json), Status::Fine)
        }
        Command::Inspect(args) => {
            let report = inspect::inspect(&args.path, &args.request()?, &progress)?;
            (text(&report, args.json), Status::Fine)
        }
        Command::Densify(args) => {
            let report = densify::densify(&args.input, &args.output, args.force, &progress)?;
            (text(&report, args.json), Status::Fine)
        }
        Command::Verify(args) => {
            let report = verify::verify(&args.path, &progress)?;
            (text(&report, args.json), found(!report.problems.is_empty()))
        }
        Command::Diff(args) => {
            let report = diff::diff(&args.a, &args.b, &progress)?;
            (text(&report, args.json), found(!report.same()))
        }
    })
}

fn found(anything: bool) -> Status {
    if anything { Status::Found } else { Status::Fine }
}

fn text(report: &(impl Serialize + Display), json: bool) -> String {
    match json {
        true => serde_json::to_string_pretty(report).expect("names and finite numbers only"),
        false => report.to_string(),
    }
}
