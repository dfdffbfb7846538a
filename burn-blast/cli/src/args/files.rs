//! Options of the commands that work on files, without Burn.

use std::path::PathBuf;

use burn_blast_kernels::BlockSize;
use burn_blast_kernels::budget::Budget;
use clap::{Args, ValueEnum};
use regex::Regex;

use super::groups::{BlockArgs, JsonArgs};
use crate::select::{Rules, Storage};
use crate::sparsify;
use crate::{Error, inspect};

/// Options of `sparsify`.
#[derive(Args, Debug)]
pub struct SparsifyArgs {
    /// Checkpoint to read, a file or a folder
    pub input: PathBuf,

    /// Checkpoint to write: a file if the input is one, otherwise a folder
    pub output: PathBuf,

    /// Which blocks are removed.
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
    #[arg(long, value_enum, default_value_t = Storage::Auto)]
    pub orientation: Storage,

    /// How the result is printed.
    #[command(flatten)]
    pub format: JsonArgs,

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

    /// How the result is printed.
    #[command(flatten)]
    pub format: JsonArgs,

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

    /// How the result is printed.
    #[command(flatten)]
    pub format: JsonArgs,

    /// Replace the output if it is there
    #[arg(long)]
    pub force: bool,
}

/// Options of `verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Checkpoint, a file or a folder
    pub path: PathBuf,

    /// How the result is printed.
    #[command(flatten)]
    pub format: JsonArgs,
}

/// Options of `diff`.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// The first checkpoint, a file or a folder
    pub a: PathBuf,

    /// The second
    pub b: PathBuf,

    /// How the result is printed.
    #[command(flatten)]
    pub format: JsonArgs,
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
            dense_last: self.blocks.dense_last,
            block: BlockSize::new(self.blocks.block)?,
            storage: self.orientation,
        };
        Ok(sparsify::Request {
            rules,
            sparsity: self.blocks.sparsity,
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
