//! Options of the commands that run a model.

use std::path::PathBuf;

use burn_blast_models::Timing;
use clap::Args;

use super::groups::{CorpusArgs, DeviceArgs, JsonArgs, ModelArgs};

/// Options of `generate`.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// The model.
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

/// Options of `perplexity`.
#[derive(Args, Debug)]
pub struct PerplexityArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,

    /// Plain text file, UTF-8; all of it is scored, JSON lines as they are
    #[arg(long, value_name = "FILE")]
    pub corpus: PathBuf,

    /// Tokens the model sees at once [default: the model's positions, at most 1024]
    #[arg(long, value_name = "TOKENS")]
    pub window: Option<usize>,

    /// Tokens from one window to the next; a smaller stride takes longer and gives each token more context
    /// [default: half the window]
    #[arg(long, value_name = "TOKENS")]
    pub stride: Option<usize>,

    /// How the result is printed.
    #[command(flatten)]
    pub format: JsonArgs,
}

/// Options of `activations`.
#[derive(Args, Debug)]
pub struct ActivationsArgs {
    /// Folder of the model
    pub model: PathBuf,

    /// File to write, safetensors; replaced if it exists
    pub output: PathBuf,

    /// Where it runs.
    #[command(flatten)]
    pub device: DeviceArgs,

    /// Plain text file, UTF-8; JSON lines are taken as they are
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

/// Options of `bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,

    /// What is timed.
    #[command(flatten)]
    pub timing: TimingArgs,

    /// How the result is printed.
    #[command(flatten)]
    pub format: JsonArgs,
}

/// Options of `measure`.
#[derive(Args, Debug)]
pub struct MeasureArgs {
    /// Folders of models; the others are compared with the first
    #[arg(required = true)]
    pub models: Vec<PathBuf>,

    /// Where they run.
    #[command(flatten)]
    pub device: DeviceArgs,

    /// Texts; the last tenth is scored.
    #[command(flatten)]
    pub text: CorpusArgs,

    /// What is timed.
    #[command(flatten)]
    pub timing: TimingArgs,

    /// File for a plot of loss against sparsity, replaced if it exists; names that differ only in a number at the end
    /// make one curve
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    /// How the result is printed.
    #[command(flatten)]
    pub format: JsonArgs,
}

/// Options of `compact`.
#[derive(Args, Debug)]
pub struct CompactArgs {
    /// Folder of the model
    pub model: PathBuf,

    /// Folder to write; must not exist. Only if every layer keeps the same: config.json has one number for all
    pub output: Option<PathBuf>,

    /// Write block-sparse weights dense, zero where no block is kept, for other programs
    #[arg(long, requires = "output")]
    pub dense: bool,

    /// How the result is printed.
    #[command(flatten)]
    pub format: JsonArgs,
}
