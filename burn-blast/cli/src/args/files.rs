//! Options of the commands that work on files, without Burn.

use std::path::PathBuf;

use burn_blast_kernels::BlockSize;
use burn_blast_kernels::budget::Budget;
use clap::{Args, ValueEnum};
use regex::Regex;

use super::{BlockArgs, JsonArgs, OutputArgs};
use crate::error::Error;
use crate::select::OrientationArg;

#[derive(Args, Debug)]
pub struct SparsifyArgs {
    /// Checkpoint to read, a file or a folder
    pub input: PathBuf,

    #[command(flatten)]
    pub out: OutputArgs,

    #[command(flatten)]
    pub blocks: BlockArgs,

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

    /// Write dense weights with zero blocks, for other tools
    #[arg(long)]
    pub dense: bool,

    /// How dense weights are stored
    #[arg(long, value_enum, default_value_t = OrientationArg::Auto)]
    pub orientation: OrientationArg,

    #[command(flatten)]
    pub format: JsonArgs,
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

#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Checkpoint, a file or a folder
    pub path: PathBuf,

    /// Look for zero blocks of this side in dense weights: 8, 16, 32, 64 or 128
    #[arg(long, value_name = "SIDE")]
    pub block: Option<usize>,

    /// How dense weights are stored
    #[arg(long, value_enum, default_value_t = OrientationArg::Auto, requires = "block")]
    pub orientation: OrientationArg,

    /// Draw the kept blocks of each weight into SVG files in this folder
    #[arg(long, value_name = "DIR")]
    pub svg: Option<PathBuf>,

    #[command(flatten)]
    pub format: JsonArgs,

    /// Replace SVG files that are there
    #[arg(long, requires = "svg")]
    pub force: bool,
}

#[derive(Args, Debug)]
pub struct DensifyArgs {
    /// Checkpoint to read, a file or a folder
    pub input: PathBuf,

    #[command(flatten)]
    pub out: OutputArgs,

    #[command(flatten)]
    pub format: JsonArgs,
}

#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Checkpoint, a file or a folder
    pub path: PathBuf,

    #[command(flatten)]
    pub format: JsonArgs,
}

#[derive(Args, Debug)]
pub struct DiffArgs {
    /// The first checkpoint, a file or a folder
    pub a: PathBuf,

    /// The second
    pub b: PathBuf,

    #[command(flatten)]
    pub format: JsonArgs,
}

impl SparsifyArgs {
    /// Side of a block, and the budget.
    ///
    /// # Errors
    /// If the block size is not supported, a share is out of range, or an option has no effect without another.
    pub fn check(&self) -> Result<(BlockSize, Budget), Error> {
        /// Densities are shares computed from shares: the last bits do not count.
        const SLACK: f64 = 1e-9;
        let global = self.budget == BudgetArg::Global;
        for (option, alone, needs) in [
            (
                "--activations",
                self.activations.is_some() && self.score != ScoreArg::Wanda,
                "--score wanda",
            ),
            ("--min-density", self.min_density.is_some() && !global, "--budget global"),
            ("--max-density", self.max_density.is_some() && !global, "--budget global"),
        ] {
            if alone {
                return Err(Error::Unused { option, needs });
            }
        }
        let blocks = self.blocks.blocks(None);
        let (sparsity, density) = (blocks.sparsity, 1.0 - blocks.sparsity);
        let min_density = self.min_density.unwrap_or(0.0);
        let max_density = self.max_density.unwrap_or(1.0);
        for (option, found, range, expected) in [
            ("--sparsity", sparsity, 0.0..=1.0_f64.next_down(), "at least 0 and below 1"),
            ("--min-density", min_density, 0.0..=density + SLACK, "between 0 and 1 - sparsity"),
            ("--max-density", max_density, density - SLACK..=1.0, "between 1 - sparsity and 1"),
        ] {
            if !range.contains(&found) {
                return Err(Error::Range { option, found, expected });
            }
        }
        let budget = match self.budget {
            BudgetArg::Uniform => Budget::Uniform,
            BudgetArg::Erk => Budget::ErdosRenyi,
            BudgetArg::Global => Budget::Global { min_density, max_density },
        };
        Ok((BlockSize::new(blocks.block)?, budget))
    }
}
