//! Times block-sparse layers beside Burn's dense layers on any device, and turns the records into pages and tables.
//!
//! A problem of the [`catalogue`] is prepared by [`setup`], checked against the oracle by [`check`], timed by
//! [`timing`] and written in the format of [`record`]; [`run`] puts these steps in order.

mod catalogue;
mod check;
mod cli;
mod cold;
mod element;
mod file;
#[cfg(test)]
mod fixtures;
mod format;
mod machine;
mod metrics;
mod peak;
mod readme;
mod record;
mod report;
mod run;
mod setup;
mod table;
#[cfg(all(test, feature = "flex"))]
mod tests;
mod timing;
mod tuning;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

use cli::{Cli, Command, FromFiles, Select};
use record::Run;

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::List(select) => list(&select),
        Command::Report(args) => {
            file::write(&args.out, args.force, &report::page(&read(&args.files)?))
        }
        Command::Tune(args) => tune(&args),
        Command::Readme => readme::write(),
    }
}

fn list(select: &Select) -> Result<()> {
    let problems = catalogue::problems(select.catalogue(), &select.filter)?;
    for problem in &problems {
        println!("{}", format::id(problem));
    }
    eprintln!("{} problems", problems.len());
    Ok(())
}

fn tune(args: &FromFiles) -> Result<()> {
    let tables = tuning::tables(&read(&args.files)?);
    let text = serde_json::to_string_pretty(&tables)? + "\n";
    file::write(&args.out, args.force, &text)
}

fn read(files: &[PathBuf]) -> Result<Vec<Run>> {
    files.iter().map(|path| Run::read(path)).collect()
}
