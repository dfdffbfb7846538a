//! The command line.

use std::path::PathBuf;

use burn_blast_models::BackendKind;
use clap::{Args, Parser, Subcommand};

use crate::catalogue::{Catalogue, Filter};
use crate::record::Clock;

/// Times block-sparse layers beside Burn's dense layers, on any device.
#[derive(Parser, Debug)]
#[command(name = "blast-bench", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Check and time problems of the catalogue
    Run(RunArgs),
    /// List the problems that the same flags would run
    List(Select),
    /// Write records as an HTML page
    Report(FromFiles),
    /// Write tuning tables for `Strategy::Auto`: the break-even densities found in records
    Tune(FromFiles),
    /// Rewrite the measured tables and pictures of the documentation from `benches/record`
    Readme,
}

/// Selection of problems.
#[derive(Args, Debug)]
pub struct Select {
    /// Only problems that take at most three minutes on two cores
    #[arg(long)]
    pub quick: bool,

    /// Values on the axes of the catalogue.
    #[command(flatten)]
    pub filter: Filter,

    /// Where to compute; each backend needs the cargo feature of the same name
    #[arg(long, value_enum, default_value_t = BackendKind::Flex)]
    pub backend: BackendKind,
}

/// Options of a run.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Selection of problems.
    #[command(flatten)]
    pub select: Select,

    /// Rounds per problem [default: what fits the problem's share of the time]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,

    /// Record to write, in JSON lines; until the run is done they are in FILE.jsonl.*.part
    #[arg(long, value_name = "FILE.jsonl")]
    pub out: Option<PathBuf>,

    /// Replace the file if it exists
    #[arg(long)]
    pub force: bool,

    /// Seconds after which no further problem is started [default: none, 160 with --quick]
    #[arg(long, value_name = "SECONDS")]
    pub time_limit: Option<f64>,

    /// Skip problems whose dense call would take longer
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub max_call: f64,

    /// Memory available to a problem [default: 70 % of the free memory by Linux or nvidia-smi, otherwise of 8 GiB]
    #[arg(long, value_name = "GIB")]
    pub memory: Option<f64>,

    /// Clock to read [default: the clock of the device, if it has one]
    #[arg(long, value_enum)]
    pub clock: Option<Clock>,
}

/// Input records and output file.
#[derive(Args, Debug)]
pub struct FromFiles {
    /// Records written by `run --out`
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// File to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,

    /// Replace the file if it exists
    #[arg(long)]
    pub force: bool,
}

impl Select {
    /// The catalogue to select from.
    pub fn catalogue(&self) -> Catalogue {
        match (self.quick, self.backend.is_host()) {
            (true, _) => Catalogue::Quick,
            (false, true) => Catalogue::Host,
            (false, false) => Catalogue::Gpu,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Verb;
    use clap::CommandFactory;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lists_and_switches_are_read() {
        let words = ["blast-bench", "list", "--rows", "1,16", "--verb", "dx,dw", "--cold=false"];
        let Command::List(select) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not the list command");
        };
        let filter = &select.filter;
        assert_eq!(filter.rows, [1, 16]);
        assert_eq!(filter.verbs, [Verb::InputGradient, Verb::WeightGradient]);
        assert_eq!(filter.cold, Some(false));
        assert_eq!(select.catalogue(), Catalogue::Host);
    }
}
