//! Trains a byte-level language model dense, narrow and dense, and block-sparse, and compares the three.
//!
//! Start with `run.rs`: it holds the whole experiment in order.

mod args;
mod config;
mod corpus;
#[cfg(test)]
mod devices;
mod model;
mod plan;
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

use burn_blast_models::fine_tune::Signals;
use burn_blast_models::{keep_memory, show_warnings};
use clap::CommandFactory;

fn main() -> anyhow::Result<ExitCode> {
    keep_memory();
    let matches = args::Args::command().get_matches();
    let args = args::Args::resolve(&matches)?;
    show_warnings(|warning| say::warn(warning));
    let stop = Signals::listen()?.save_first();
    let stop = || stop.load(Ordering::SeqCst);
    match &args.job {
        Some(args::Job::Study { plan, out }) => study::study(plan, out, &stop),
        None => run::run(args, &stop),
    }
}
