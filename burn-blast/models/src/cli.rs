//! The command line.

use std::path::PathBuf;

use burn_blast_models::{Backend, Precision};
use clap::{Parser, Subcommand, ValueEnum};

/// Runs Llama and GPT-2 checkpoints, dense or with block-sparse weights.
///
/// MODEL is a folder as Hugging Face publishes it: config.json, model.safetensors (or its parts and their index) and
/// tokenizer.json. Layers stored packed by burn-blast run block-sparse.
#[derive(Parser, Debug)]
#[command(name = "llama", version)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do with a model.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Continue a text.
    Generate(GenerateArgs),
    /// Score a text by a sliding window.
    Perplexity(PerplexityArgs),
    /// Measure tokens a second, for a prompt and token by token.
    Bench(BenchArgs),
    /// Collect what `blast sparsify --score wanda` needs: norms of the MLPs' inputs over a text.
    Activations(ActivationsArgs),
    /// Show which hidden features and heads contribute nothing, and write the model without them.
    Compact(CompactArgs),
}

/// Which model, and where and how it runs.
#[derive(clap::Args, Debug)]
pub struct ModelArgs {
    /// Folder of the model.
    pub model: PathBuf,
    /// Where to compute; GPUs need a build with their feature.
    #[arg(long, value_enum, default_value_t = Backend::Flex, help_heading = "Device")]
    pub backend: Backend,
    /// Precision of weights and features. `file` takes that of the checkpoint; by default a CPU takes f32, which costs
    /// memory but no conversions, and a GPU `file`.
    #[arg(long, value_enum, help_heading = "Device")]
    precision: Option<Bits>,
    /// Leave out hidden features and heads that contribute nothing, as `compact` shows them.
    #[arg(long)]
    pub compact: bool,
    /// Round block-sparse weights to 8-bit integers once they are loaded, one scale a block: a quarter of the bytes of
    /// f32.
    #[arg(long)]
    pub int8: bool,
}

impl ModelArgs {
    /// The precision asked for, or the one that suits the backend.
    pub fn precision(&self) -> Precision {
        match self.precision {
            Some(Bits::F32) => Precision::F32,
            Some(Bits::F16) => Precision::F16,
            Some(Bits::Bf16) => Precision::BF16,
            Some(Bits::File) => Precision::File,
            None if self.backend.is_host() => Precision::F32,
            None => Precision::File,
        }
    }
}

/// Arguments of `generate`.
#[derive(clap::Args, Debug)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// How the text starts.
    #[arg(long)]
    pub prompt: String,
    /// Tokens to add at most; the text may end before, by itself or with the model's positions.
    #[arg(long, default_value_t = 64)]
    pub max_new: usize,
    /// 0 takes the likeliest token, above it tokens are drawn; below 1 likely ones become likelier.
    #[arg(long, default_value_t = 0.0, help_heading = "Sampling")]
    pub temperature: f64,
    /// Draw from this many of the likeliest tokens only.
    #[arg(long, help_heading = "Sampling")]
    pub top_k: Option<usize>,
    /// Draw from the fewest likeliest tokens that have this share together.
    #[arg(long, default_value_t = 1.0, help_heading = "Sampling")]
    pub top_p: f64,
    /// The same seed gives the same text.
    #[arg(long, default_value_t = 0, help_heading = "Sampling")]
    pub seed: u64,
}

/// Arguments of `perplexity`.
#[derive(clap::Args, Debug)]
pub struct PerplexityArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Text file, UTF-8.
    pub text: PathBuf,
    /// Tokens the model sees at once. Default: the model's positions, at most 1024.
    #[arg(long)]
    pub window: Option<usize>,
    /// Tokens from one window to the next; smaller is slower and gives each token more to go by. Default: half the
    /// window.
    #[arg(long)]
    pub stride: Option<usize>,
}

/// Arguments of `bench`.
#[derive(clap::Args, Debug)]
pub struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 256)]
    pub prefill: usize,
    /// Tokens to decode after it, one at a time, in each round.
    #[arg(long, default_value_t = 32)]
    pub decode: usize,
    /// Rounds that count.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
}

/// Arguments of `activations`.
#[derive(clap::Args, Debug)]
pub struct ActivationsArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Text file, UTF-8.
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// File to write, safetensors; replaced if it exists.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Tokens the model sees at once. Default: the model's positions, at most 1024.
    #[arg(long)]
    pub window: Option<usize>,
    /// Tokens of the text to take, from its start.
    #[arg(long, default_value_t = 131_072)]
    pub tokens: usize,
}

/// Arguments of `compact`.
#[derive(clap::Args, Debug)]
pub struct CompactArgs {
    /// Folder of the model.
    pub model: PathBuf,
    /// Folder to write; must not exist. Only if every layer keeps the same: config.json has one number for all.
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Write block-sparse weights dense, zero where no block is kept, for other programs.
    #[arg(long, requires = "out")]
    pub dense: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Bits {
    F32,
    F16,
    Bf16,
    File,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_option_explained() {
        Args::command().debug_assert();
        for command in Args::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for option in command.get_arguments() {
                assert!(option.get_help().is_some(), "{} {}", command.get_name(), option.get_id());
            }
        }
    }

    #[test]
    fn a_cpu_computes_in_single_precision_unless_told_otherwise() {
        let precision = |flags: &[&str]| {
            let args = Args::parse_from([&["llama", "bench", "folder"], flags].concat());
            match args.command {
                Command::Bench(args) => args.model.precision(),
                other => panic!("{other:?} is not a bench"),
            }
        };
        assert_eq!(precision(&[]), Precision::F32);
        assert_eq!(precision(&["--precision", "file"]), Precision::File);
        assert_eq!(precision(&["--backend", "wgpu"]), Precision::File);
        assert_eq!(precision(&["--backend", "wgpu", "--precision", "bf16"]), Precision::BF16);
    }
}
