//! Trains a byte-level language model dense, narrow and dense, and block-sparse, and compares the three.
//!
//! Start with `run.rs`: it holds the whole experiment in order.

mod args;
mod corpus;
#[cfg(test)]
mod devices;
mod model;
mod report;
mod run;
mod store;
mod table;
mod timing;
mod training;

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use burn_blast_models::fine_tune::stop_on_ctrl_c;
use clap::CommandFactory;

fn main() -> anyhow::Result<ExitCode> {
    let matches = args::Args::command().get_matches();
    let args = args::Args::resolve(&matches)?;
    let stop = stop_on_ctrl_c()?;
    run::run(args, &|| stop.load(Ordering::SeqCst))
}
