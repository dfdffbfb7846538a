//! Makes a trained language model block-sparse and wins back what that costs.
//!
//! `dense` trains a small Llama to start from, `one-shot` sparsifies a checkpoint without training, `fine-tune` does it
//! while training goes on, with a teacher if asked for, or trains adapters, `merge` puts those into the weights, and
//! `measure` compares checkpoints. All of them read and write
//! folders as Hugging Face publishes them.

mod adapt;
mod args;
mod data;
mod folder;
mod loss;
mod measure;
mod objective;
mod oneshot;
mod run;
mod schedule;
mod train;

use anyhow::Result;
use clap::Parser;

use args::{Args, Command};

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Dense(args) => run::dense(&args),
        Command::OneShot(args) => oneshot::run(&args),
        Command::FineTune(args) => run::fine_tune(&args),
        Command::Merge(args) => adapt::merge(&args),
        Command::Measure(args) => measure::run(&args),
    }
}
