//! Checkpoints with block-sparse weights, on the command line: the library behind the program `blast`.
//!
//! It knows files and blocks, neither Burn nor tensors: a file is mapped, read tensor by tensor and written tensor
//! by tensor, so a checkpoint may be larger than memory. One weight, from file to file:
//!
//! 1. [`checkpoint`] finds the files ([`index`]) and opens them ([`shard`]).
//! 2. [`choose`] picks the weights; [`weight`] scores their blocks, with [`activations`] if there are any.
//! 3. [`sparsify`] says how many blocks each keeps, by the rules training uses
//!    ([`burn_blast_kernels::budget`]), and which.
//! 4. [`entry`] makes the packed tensors block by block, each turned from how it lies on [`disk`];
//!    [`rewrite`] writes files and the index, [`output`] puts them in place.
//! 5. [`mod@packed`] reads them again, for [`densify`], [`inspect`], [`verify`] and [`diff`].

pub mod activations;
pub mod args;
pub mod checkpoint;
pub mod choose;
pub mod densify;
pub mod diff;
pub mod disk;
pub mod entry;
mod error;
pub mod index;
pub mod inspect;
pub mod output;
pub mod packed;
pub mod progress;
pub mod report;
pub mod rewrite;
pub mod shard;
pub mod sparsify;
pub mod verify;
pub mod weight;

use std::fmt::Display;
use std::process::ExitCode;

use serde::Serialize;

use args::{Cli, Command};
pub use error::Error;
use progress::Progress;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Nothing to complain about.
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
