//! Options of the commands that run a model.

use std::path::PathBuf;

use burn_blast_models::Timing;
use clap::Args;

use super::{CorpusArgs, DeviceArgs, JsonArgs, ModelArgs, OutputArgs};

#[derive(Args, Debug)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// How the text starts
    #[arg(long)]
    pub prompt: String,

    /// Tokens to add at most; the text also ends by itself, or with the model's positions
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    pub max_new: usize,

    /// 0 takes the likeliest token; above it tokens are drawn, and below 1 likely ones become likelier
    #[arg(long, default_value_t = 0.0, help_heading = "Sampling")]
    pub temperature: f64,

    /// Draw from this many of the likeliest tokens only
    #[arg(long, value_name = "TOKENS", help_heading = "Sampling")]
    pub top_k: Option<usize>,

    /// Draw from the fewest likeliest tokens that have this share together
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, help_heading = "Sampling")]
    pub top_p: f64,

    /// The same seed gives the same text
    #[arg(long, default_value_t = 0, help_heading = "Sampling")]
    pub seed: u64,
}

#[derive(Args, Debug)]
pub struct PerplexityArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    /// Text file, or JSON lines with a "text" in each; all of it is scored
    #[arg(long, value_name = "FILE")]
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

    /// Text file, or JSON lines with a "text" in each
    #[arg(long, value_name = "FILE")]
    pub corpus: PathBuf,

    /// Tokens the model sees at once [default: the model's positions, at most 1024]
    #[arg(long, value_name = "TOKENS")]
    pub window: Option<usize>,

    /// Tokens of the text to take, from its start
    #[arg(long, default_value_t = 131_072)]
    pub tokens: usize,
}

/// What is timed.
#[derive(Args, Clone, Debug)]
pub struct TimingArgs {
    /// Tokens of the prompt
    #[arg(long, value_name = "TOKENS", default_value_t = Timing::new().prefill, help_heading = "Timing")]
    pub prefill: usize,

    /// Tokens after it, one at a time, in each round
    #[arg(long, value_name = "TOKENS", default_value_t = Timing::new().decode, help_heading = "Timing")]
    pub decode: usize,

    /// Rounds that count, through all models in turn
    #[arg(long, default_value_t = Timing::new().rounds, help_heading = "Timing")]
    pub rounds: usize,
}

impl TimingArgs {
    /// As the models take them.
    pub fn timing(&self) -> Timing {
        Timing { prefill: self.prefill, decode: self.decode, rounds: self.rounds, ..Timing::new() }
    }
}

#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArgs,

    #[command(flatten)]
    pub timing: TimingArgs,

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
    pub timing: TimingArgs,

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

    /// Folder to write. Only if every layer keeps the same: config.json has one number for all
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
