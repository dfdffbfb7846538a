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
mod say;
mod store;
mod study;
mod table;
mod timing;
mod training;

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use burn_blast_models::fine_tune::stop_on_signals;
use clap::CommandFactory;

fn main() -> anyhow::Result<ExitCode> {
    let matches = args::Args::command().get_matches();
    let args = args::Args::resolve(&matches)?;
    let stop = stop_on_signals()?;
    let stop = || stop.load(Ordering::SeqCst);
    match &args.job {
        Some(args::Job::Study { plan, out }) => study::study(plan, out, &stop),
        None => run::run(args, &stop),
    }
}
