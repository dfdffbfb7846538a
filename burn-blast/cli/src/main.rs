//! `blast`: block-sparse checkpoints from the command line.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use burn_blast_cli::args::Cli;
use burn_blast_cli::run;
use clap::Parser;

/// Wrong usage or unusable input; clap's own errors end with it too.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let (text, status) = match run(&Cli::parse()) {
        Ok(done) => done,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(UNUSABLE);
        }
    };
    match writeln!(std::io::stdout(), "{text}") {
        // Whoever reads may stop early, as `head` does.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("error: cannot write the result: {error}");
            ExitCode::from(UNUSABLE)
        }
        _ => status.into(),
    }
}
