//! Options of the commands that run a model.

use std::path::PathBuf;

use burn_blast_models::{Sampling, Timing};
use clap::Args;

use super::{CorpusArgs, DeviceArgs, JsonArgs, ModelArgs, OutputArgs};

#[derive(Args, Debug)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// How the text starts
    #[arg(long, allow_hyphen_values = true)]
    pub prompt: String,

    /// Take the prompt as what a user says, in the chat template of the model, and show the answer alone
    #[arg(long)]
    pub chat: bool,

    /// What the system says before the user
    #[arg(long, value_name = "TEXT", requires = "chat", allow_hyphen_values = true)]
    pub system: Option<String>,

    /// Tokens to add at most; the text also ends by itself, or with the model's positions
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    pub max_new: usize,

    #[command(flatten)]
    pub sampling: Sampling,
}

#[derive(Args, Debug)]
pub struct PerplexityArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// Text file, JSON lines with a "text" in each, or a folder of them; all of it is scored
    #[arg(long, value_name = "FILE|DIR")]
    pub corpus: PathBuf,

    /// Tokens the model sees at once [default: the model's positions, at most 1024]
    #[arg(long, value_name = "TOKENS")]
    pub window: Option<usize>,

    /// Tokens from one window to the next; a smaller stride takes longer and gives each token more context
    /// [default: half the window]
    #[arg(long, value_name = "TOKENS")]
    pub stride: Option<usize>,

    #[command(flatten)]
    pub format: JsonArgs,
}

#[derive(Args, Debug)]
pub struct ActivationsArgs {
    /// Folder of the model
    pub model: PathBuf,

    #[command(flatten)]
    pub out: OutputArgs,

    #[command(flatten)]
    pub device: DeviceArgs,

    /// Text file, JSON lines with a "text" in each, or a folder of them
    #[arg(long, value_name = "FILE|DIR")]
    pub corpus: PathBuf,

    /// Tokens the model sees at once [default: the model's positions, at most 1024]
    #[arg(long, value_name = "TOKENS")]
    pub window: Option<usize>,

    /// Tokens of the text to take, from its start
    #[arg(long, default_value_t = 131_072)]
    pub tokens: usize,
}

#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    #[command(flatten)]
    pub timing: Timing,

    #[command(flatten)]
    pub format: JsonArgs,
}

#[derive(Args, Debug)]
pub struct MeasureArgs {
    /// Folders of models; the others are compared with the first
    #[arg(required = true)]
    pub models: Vec<PathBuf>,

    #[command(flatten)]
    pub device: DeviceArgs,

    #[command(flatten)]
    pub text: CorpusArgs,

    #[command(flatten)]
    pub timing: Timing,

    /// File for a plot of loss against sparsity; names that differ only in a number at the end make one curve
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    /// Replace the plot if it is there
    #[arg(long, requires = "svg")]
    pub force: bool,

    #[command(flatten)]
    pub format: JsonArgs,
}

#[derive(Args, Debug)]
pub struct CompactArgs {
    /// Folder of the model
    pub model: PathBuf,

    /// Folder to write. Only if every layer keeps the same heads: config.json has one number for all
    pub output: Option<PathBuf>,

    /// Replace the output if it is a checkpoint or empty
    #[arg(long, requires = "output")]
    pub force: bool,

    /// Write block-sparse weights dense, zero where no block is kept, for other programs
    #[arg(long, requires = "output")]
    pub dense: bool,

    #[command(flatten)]
    pub format: JsonArgs,
}
