//! Times block-sparse layers beside Burn's dense ones on any device, and turns the files into a page and advice.
//!
//! A problem of the `catalogue` is made ready by `setup`, held against the oracle by `check`, timed by `time`,
//! and written down in the form of `record`; `run` holds the order of it all.

mod advice;
mod catalogue;
mod check;
mod cli;
mod cold;
mod element;
mod file;
mod machine;
mod models;
mod numbers;
mod peak;
mod record;
mod report;
mod run;
#[cfg(test)]
mod sample;
mod setup;
mod table;
#[cfg(all(test, feature = "flex"))]
mod tests;
mod time;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

use cli::{Cli, Command, FromFiles, Select};
use file::Output;
use report::Run;

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::List(select) => list(&select),
        Command::Report(args) => write(&args, &report::page(&read(&args.files)?)),
        Command::Advise(args) => advise(&args),
    }
}

fn list(select: &Select) -> Result<()> {
    let problems = catalogue::problems(select.plan(), &select.filter())?;
    for problem in &problems {
        println!("{}", catalogue::describe(problem));
    }
    eprintln!("{} problems", problems.len());
    Ok(())
}

fn advise(args: &FromFiles) -> Result<()> {
    let advice = advice::advise(&read(&args.files)?);
    write(args, &format!("{}\n", serde_json::to_string_pretty(&advice)?))
}

fn read(files: &[PathBuf]) -> Result<Vec<Run>> {
    files.iter().map(|path| report::read(path)).collect()
}

fn write(args: &FromFiles, text: &str) -> Result<()> {
    let mut output = Output::new(&args.out, args.force)?;
    output.text(text)?;
    output.finish()
}
