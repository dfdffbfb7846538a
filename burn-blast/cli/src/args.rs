//! The command line.

use std::path::PathBuf;

use burn_blast_kernels::BlockSize;
use burn_blast_kernels::budget::Budget;
use clap::builder::styling::Styles;
use clap::{Args, Parser, Subcommand, ValueEnum};
use regex::Regex;

use crate::select::{Rules, Storage};
use crate::sparsify;
use crate::{Error, inspect};

/// Block-sparse checkpoints in the form of burn-blast: make, look at, check, compare, undo
///
/// Every command takes a safetensors file or a folder as Hugging Face lays it out. Outputs appear whole or not at
/// all. Progress and errors go to standard error, results to standard output.
///
/// Exit codes: 0 fine; 1 verify found problems or diff found differences; 2 wrong usage or unusable input.
#[derive(Parser, Debug)]
#[command(name = "blast", version, styles = Styles::plain(), max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Remove the weakest blocks of dense weights and pack the rest
    Sparsify(SparsifyArgs),
    /// Show what each weight keeps, and find zero blocks in dense ones
    Inspect(InspectArgs),
    /// Turn packed weights into dense ones, as they were stored before
    Densify(DensifyArgs),
    /// Check every rule of the format, lengths and index; lists all problems
    Verify(VerifyArgs),
    /// Compare the blocks and values of two checkpoints
    Diff(DiffArgs),
}

/// Options of `sparsify`.
#[derive(Args, Debug)]
pub struct SparsifyArgs {
    /// Checkpoint to read, a file or a folder
    pub input: PathBuf,

    /// Checkpoint to write: a file if the input is one, otherwise a folder
    pub output: PathBuf,

    /// Share of blocks to remove, at least 0 and below 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.9)]
    pub sparsity: f64,

    /// Side of a block: 8, 16, 32, 64 or 128
    #[arg(long, value_name = "SIDE", default_value_t = 64)]
    pub block: usize,

    /// Prune weights whose name matches; may be repeated [default: MLP weights of known families]
    #[arg(long, value_name = "REGEX")]
    pub include: Vec<Regex>,

    /// Leave out weights whose name matches; may be repeated
    #[arg(long, value_name = "REGEX")]
    pub exclude: Vec<Regex>,

    /// How the blocks to keep are shared among weights
    #[arg(long, value_enum, default_value_t = BudgetArg::Uniform)]
    pub budget: BudgetArg,

    /// Least share of blocks a weight keeps, with --budget global [default: 0]
    #[arg(long, value_name = "SHARE")]
    pub min_density: Option<f64>,

    /// Greatest share of blocks a weight keeps, with --budget global [default: 1]
    #[arg(long, value_name = "SHARE")]
    pub max_density: Option<f64>,

    /// What blocks are ranked by
    #[arg(long, value_enum, default_value_t = ScoreArg::Magnitude)]
    pub score: ScoreArg,

    /// Safetensors file with the norms of each weight's input features, for --score wanda
    #[arg(long, value_name = "FILE", required_if_eq("score", "wanda"))]
    pub activations: Option<PathBuf>,

    /// Leave the last layers dense, by the number in their name
    #[arg(long, value_name = "LAYERS", default_value_t = 0)]
    pub keep_last: usize,

    /// Write dense weights with zero blocks, for other tools
    #[arg(long)]
    pub dense: bool,

    /// How dense weights are stored
    #[arg(long, value_enum, default_value_t = Storage::Auto)]
    pub orientation: Storage,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,

    /// Replace the output if it is there
    #[arg(long)]
    pub force: bool,
}

/// How the blocks to keep are shared among weights.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetArg {
    /// Every weight loses the same share
    Uniform,
    /// All blocks compete by score, whatever their weight
    Global,
    /// Small weights keep more (Erdős–Rényi over the block grid)
    Erk,
}

/// What blocks are ranked by.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreArg {
    /// Frobenius norm of the block
    Magnitude,
    /// The same, each input feature weighted by the norm of its activations
    Wanda,
}

/// Options of `inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Checkpoint, a file or a folder
    pub path: PathBuf,

    /// Look for zero blocks of this side in dense weights: 8, 16, 32, 64 or 128
    #[arg(long, value_name = "SIDE")]
    pub block: Option<usize>,

    /// How dense weights are stored
    #[arg(long, value_enum, default_value_t = Storage::Auto)]
    pub orientation: Storage,

    /// Draw the kept blocks of each weight into SVG files in this folder
    #[arg(long, value_name = "DIR")]
    pub svg: Option<PathBuf>,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,

    /// Replace SVG files that are there
    #[arg(long)]
    pub force: bool,
}

/// Options of `densify`.
#[derive(Args, Debug)]
pub struct DensifyArgs {
    /// Checkpoint to read, a file or a folder
    pub input: PathBuf,

    /// Checkpoint to write: a file if the input is one, otherwise a folder
    pub output: PathBuf,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,

    /// Replace the output if it is there
    #[arg(long)]
    pub force: bool,
}

/// Options of `verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Checkpoint, a file or a folder
    pub path: PathBuf,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `diff`.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// The first checkpoint, a file or a folder
    pub a: PathBuf,

    /// The second
    pub b: PathBuf,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

impl SparsifyArgs {
    /// The request these options make.
    ///
    /// # Errors
    /// If the block size is not supported, or an option has no effect without another.
    pub fn request(&self) -> Result<sparsify::Request, Error> {
        unused(
            self.activations.is_some() && self.score != ScoreArg::Wanda,
            "--activations",
            "--score wanda",
        )?;
        let budget = match self.budget {
            BudgetArg::Uniform => Budget::Uniform,
            BudgetArg::Erk => Budget::ErdosRenyi,
            BudgetArg::Global => Budget::Global {
                min_density: self.min_density.unwrap_or(0.0),
                max_density: self.max_density.unwrap_or(1.0),
            },
        };
        let uneven = self.budget == BudgetArg::Global;
        unused(self.min_density.is_some() && !uneven, "--min-density", "--budget global")?;
        unused(self.max_density.is_some() && !uneven, "--max-density", "--budget global")?;
        let rules = Rules {
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            keep_last: self.keep_last,
            block: BlockSize::new(self.block)?,
            storage: self.orientation,
        };
        Ok(sparsify::Request {
            rules,
            sparsity: self.sparsity,
            budget,
            activations: self.activations.clone(),
            dense: self.dense,
            force: self.force,
        })
    }
}

impl InspectArgs {
    /// The request these options make.
    ///
    /// # Errors
    /// If the block size is not supported, or an option has no effect without another.
    pub fn request(&self) -> Result<inspect::Request, Error> {
        let oriented = self.orientation != Storage::Auto;
        unused(oriented && self.block.is_none(), "--orientation", "--block")?;
        unused(self.force && self.svg.is_none(), "--force", "--svg")?;
        Ok(inspect::Request {
            block: self.block.map(BlockSize::new).transpose()?,
            storage: self.orientation,
            svg: self.svg.clone(),
            force: self.force,
        })
    }
}

/// Refuses an option that was given without the one it needs.
fn unused(alone: bool, option: &'static str, needs: &'static str) -> Result<(), Error> {
    match alone {
        true => Err(Error::Unused { option, needs }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_options_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_every_option_says_what_it_does() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                let name = format!("{} {}", command.get_name(), argument.get_id());
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.len() > 8, "{name} says \"{help}\"");
                let takes_value = argument.get_action().takes_values();
                for value in argument.get_possible_values().iter().filter(|_| takes_value) {
                    assert!(value.get_help().is_some(), "{name} {}", value.get_name());
                }
            }
        }
    }
}
