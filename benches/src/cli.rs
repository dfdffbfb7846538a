//! What the program is asked to do.

use std::path::PathBuf;

use clap::builder::PossibleValue;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::catalogue::{Filter, Plan, VERBS, verb_name};
use crate::element::Element;
use crate::record::{Clock, Verb};
use example_backend::Backend;

/// Times block-sparse layers beside Burn's dense ones, on any device.
#[derive(Parser, Debug)]
#[command(name = "blast-bench", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Check and time problems of the catalogue
    Run(RunArgs),
    /// Show the problems that the same flags would run
    List(Select),
    /// Lay out the files of runs as a page
    Report(FromFiles),
    /// Say from which share of kept blocks on dense is faster, by the files of runs
    Advise(FromFiles),
}

/// Which problems.
#[derive(Args, Debug)]
pub struct Select {
    /// Only what takes at most three minutes on two cores
    #[arg(long)]
    pub quick: bool,

    /// Models whose name contains this, such as `llama` or `8b`
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    pub model: Vec<String>,

    /// Products, or whole blocks and steps
    #[arg(long, value_delimiter = ',', value_enum)]
    pub verb: Vec<Verb>,

    /// Rows of the input
    #[arg(long, value_delimiter = ',', value_name = "M")]
    pub rows: Vec<usize>,

    /// Shares of blocks removed, in per cent
    #[arg(long, value_delimiter = ',', value_name = "PER_CENT")]
    pub sparsity: Vec<u32>,

    /// Sides of a block
    #[arg(long, value_delimiter = ',', value_name = "SIDE")]
    pub block: Vec<usize>,

    /// Storage types [default: f32, on GPUs all]
    #[arg(long, value_delimiter = ',', value_enum)]
    pub dtype: Vec<Element>,

    /// Only problems timed with empty caches, or with `=false` all of them with full ones
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub cold: Option<bool>,

    /// Where to compute; each one needs the cargo feature of the same name
    #[arg(long, value_enum, default_value_t = Backend::Flex)]
    pub backend: Backend,
}

/// A run.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Which problems.
    #[command(flatten)]
    pub select: Select,

    /// Rounds of each problem [default: as many as fit its share of the time]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,

    /// File for the results, in JSON lines; until the run is done they are in FILE.jsonl.*.part
    #[arg(long, value_name = "FILE.jsonl")]
    pub out: Option<PathBuf>,

    /// Replace the file if it is there
    #[arg(long)]
    pub force: bool,

    /// Seconds after which no further problem is begun [default: none, 160 with --quick]
    #[arg(long, value_name = "SECONDS")]
    pub time_limit: Option<f64>,

    /// Leave out problems whose dense call would take longer
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub max_call: f64,

    /// Memory a problem may take [default: 70 % of what is free, as far as Linux or nvidia-smi tell, else of 8 GiB]
    #[arg(long, value_name = "GIB")]
    pub memory: Option<f64>,

    /// Where seconds are read from [default: the device, if it has a clock]
    #[arg(long, value_enum)]
    pub clock: Option<ClockArg>,

    /// Name and version of the GPU driver, if the program does not find it
    #[arg(long, value_name = "TEXT")]
    pub driver: Option<String>,
}

/// Files in, a file out.
#[derive(Args, Debug)]
pub struct FromFiles {
    /// Files written by `run --out`
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// File to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,

    /// Replace the file if it is there
    #[arg(long)]
    pub force: bool,
}

/// Where seconds are read from.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockArg {
    /// The host's clock, until the device is done.
    Wall,
    /// The device's time stamps.
    Device,
}

impl From<ClockArg> for Clock {
    fn from(clock: ClockArg) -> Self {
        match clock {
            ClockArg::Wall => Self::Wall,
            ClockArg::Device => Self::Device,
        }
    }
}

impl ValueEnum for Verb {
    fn value_variants<'a>() -> &'a [Self] {
        &VERBS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Forward => "y = x · w",
            Self::InputGradient => "dx = dy · wᵀ",
            Self::WeightGradient => "dw = xᵀ · dy at the kept blocks",
            Self::GatedMlp => "down(silu(gate(x)) · up(x))",
            Self::Step => "forward, both gradients and an AdamW step",
        };
        Some(PossibleValue::new(verb_name(*self)).help(help))
    }
}

impl Select {
    /// The catalogue to choose from.
    pub fn plan(&self) -> Plan {
        match (self.quick, self.backend.is_host()) {
            (true, _) => Plan::Quick,
            (false, true) => Plan::Host,
            (false, false) => Plan::Gpu,
        }
    }

    /// The values asked for.
    pub fn filter(&self) -> Filter {
        Filter {
            models: self.model.clone(),
            verbs: self.verb.clone(),
            rows: self.rows.clone(),
            sparsity: self.sparsity.clone(),
            blocks: self.block.clone(),
            elements: self.dtype.clone(),
            cold: self.cold,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lists_and_switches_are_read() {
        let words = ["blast-bench", "list", "--rows", "1,16", "--verb", "dx,dw", "--cold=false"];
        let Command::List(select) = Cli::try_parse_from(words).unwrap().command else {
            panic!("list was asked for");
        };
        let filter = select.filter();
        assert_eq!(filter.rows, [1, 16]);
        assert_eq!(filter.verbs, [Verb::InputGradient, Verb::WeightGradient]);
        assert_eq!(filter.cold, Some(false));
        assert_eq!(select.plan(), Plan::Host);
    }

    #[test]
    fn a_verb_that_does_not_exist_is_answered_with_those_that_do() {
        let words = ["blast-bench", "run", "--verb", "transpose"];
        let error = Cli::try_parse_from(words).unwrap_err().to_string();
        assert!(error.contains("gated-mlp"), "{error}");
    }
}
