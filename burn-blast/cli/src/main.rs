//! `blast`: block-sparse models and checkpoints from the command line.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use burn_blast_cli::args::Cli;
use burn_blast_cli::{Error, run};

/// Wrong usage or unusable input; clap's own errors end with it too.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let written = run(&Cli::read()).and_then(|(text, status)| {
        if !text.is_empty() {
            writeln!(std::io::stdout(), "{text}")?;
        }
        Ok(status)
    });
    match written {
        Ok(status) => status.into(),
        // Whoever reads may stop early, as `head` does.
        Err(Error::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(UNUSABLE)
        }
    }
}
