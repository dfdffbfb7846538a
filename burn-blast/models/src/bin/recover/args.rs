//! The command line.

use std::path::PathBuf;

use burn_blast::prune::Growth;
use burn_blast_models::{Backend, Precision};
use clap::{Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

/// Makes a trained language model block-sparse and wins back what that costs.
///
/// MODEL and OUT are folders as Hugging Face publishes them. A checkpoint without tokenizer.json reads bytes.
#[derive(Parser, Debug)]
#[command(name = "recover", version)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Train a small Llama from scratch, to have something to sparsify.
    Dense(DenseArgs),
    /// Remove MLP blocks of a checkpoint at once, without training.
    OneShot(OneShotArgs),
    /// Remove MLP blocks of a checkpoint step by step while it trains on, or train adapters beside the blocks it keeps.
    FineTune(FineTuneArgs),
    /// Put adapters into the weights they stand beside.
    Merge(MergeArgs),
    /// Compare checkpoints: loss on held-out text, bytes, tokens a second.
    Measure(MeasureArgs),
}

/// Where texts come from and how they are cut.
#[derive(clap::Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextArgs {
    /// Text file, or JSON lines with a "text" in each; its last tenth is held out.
    #[arg(long, value_name = "FILE")]
    pub corpus: PathBuf,
    /// Tokens in a sequence.
    #[arg(long, default_value_t = 128)]
    pub context: usize,
    /// Sequences that go through the model at once.
    #[arg(long, default_value_t = 8)]
    pub batch: usize,
}

/// How a model is trained.
#[derive(clap::Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainArgs {
    /// Texts.
    #[command(flatten)]
    pub text: TextArgs,
    /// Where to compute; GPUs need a build with their feature.
    #[arg(long, value_enum, default_value_t = Backend::Flex)]
    pub backend: Backend,
    /// Optimizer steps.
    #[arg(long, default_value_t = 1000)]
    pub steps: usize,
    /// Batches whose gradients are summed up before a step.
    #[arg(long, default_value_t = 1)]
    pub accumulate: usize,
    /// Highest learning rate.
    #[arg(long, default_value_t = 1e-3)]
    pub lr: f64,
    /// How the learning rate falls after its rise.
    #[arg(long, value_enum, default_value_t = Decay::Cosine)]
    pub decay: Decay,
    /// Steps in which the learning rate rises.
    #[arg(long, default_value_t = 50)]
    pub warm_up: usize,
    /// Largest norm of a parameter's gradient.
    #[arg(long, default_value_t = 1.0)]
    pub clip: f32,
    /// Decay of the weights.
    #[arg(long, default_value_t = 0.01)]
    pub weight_decay: f32,
    /// Steps from one evaluation to the next.
    #[arg(long, default_value_t = 100)]
    pub eval_every: usize,
    /// Steps from one checkpoint to the next.
    #[arg(long, default_value_t = 200)]
    pub save_every: usize,
    /// Seed of weights and batches.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Go on with the interrupted run for this OUT.
    #[arg(long)]
    #[serde(skip)]
    pub resume: bool,
}

/// How the learning rate falls.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// By half a cosine, to a tenth.
    Cosine,
    /// By a line, to a tenth.
    Linear,
    /// Not at all.
    Constant,
}

/// Arguments of `dense`.
#[derive(clap::Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DenseArgs {
    /// Folder to write; must not exist.
    pub out: PathBuf,
    /// How it is trained.
    #[command(flatten)]
    pub train: TrainArgs,
    /// Width of the model.
    #[arg(long, default_value_t = 256, help_heading = "Sizes")]
    pub width: usize,
    /// Width inside the MLPs.
    #[arg(long, default_value_t = 1024, help_heading = "Sizes")]
    pub hidden: usize,
    /// Layers.
    #[arg(long, default_value_t = 3, help_heading = "Sizes")]
    pub layers: usize,
    /// Attention heads.
    #[arg(long, default_value_t = 4, help_heading = "Sizes")]
    pub heads: usize,
    /// Heads of keys and values.
    #[arg(long, default_value_t = 2, help_heading = "Sizes")]
    pub kv_heads: usize,
}

/// Which blocks go.
#[derive(clap::Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SparsityArgs {
    /// Share of the MLP blocks that is removed.
    #[arg(long, default_value_t = 0.9)]
    pub sparsity: f64,
    /// Rows and columns of a block: 8, 16, 32, 64 or 128.
    #[arg(long, default_value_t = 32)]
    pub block: usize,
    /// Last layers whose MLP stays as it is.
    #[arg(long, default_value_t = 0)]
    pub keep_last: usize,
}

/// Arguments of `one-shot`.
#[derive(clap::Args, Clone, Debug)]
pub struct OneShotArgs {
    /// Dense checkpoint.
    pub model: PathBuf,
    /// Folder to write; must not exist.
    pub out: PathBuf,
    /// Which blocks go.
    #[command(flatten)]
    pub blocks: SparsityArgs,
    /// How blocks are chosen, and whether those that stay make up for the others.
    #[arg(long, value_enum, default_value_t = Method::WandaCorrected)]
    pub method: Method,
    /// Text to calibrate on; every method but `magnitude` needs it. Its last tenth is left out.
    #[arg(long, value_name = "FILE")]
    pub corpus: Option<PathBuf>,
    /// Sequences to calibrate on. Default: 64.
    #[arg(long)]
    pub sequences: Option<usize>,
    /// Tokens in a sequence. Default: 128.
    #[arg(long)]
    pub context: Option<usize>,
    /// How strongly corrected values are drawn to the old ones, against the inputs' mean square. Default: 0.01.
    #[arg(long)]
    pub damping: Option<f64>,
    /// Where to compute; GPUs need a build with their feature.
    #[arg(long, value_enum, default_value_t = Backend::Flex)]
    pub backend: Backend,
}

/// How one-shot sparsification chooses.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Norm of a block.
    Magnitude,
    /// Norm of a block, its rows scaled by the norms of their inputs.
    Wanda,
    /// The same, then least squares on the blocks that stay, layer after layer.
    WandaCorrected,
}

/// Arguments of `fine-tune`.
#[derive(clap::Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FineTuneArgs {
    /// Checkpoint to start from; dense, or block-sparse.
    pub model: PathBuf,
    /// Folder to write; must not exist.
    pub out: PathBuf,
    /// How it is trained.
    #[command(flatten)]
    pub train: TrainArgs,
    /// Which blocks go in the end.
    #[command(flatten)]
    pub blocks: SparsityArgs,
    /// Precision of weights and features; with bf16 the optimizer keeps f32 copies of the weights.
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    #[serde(default, skip_serializing_if = "Dtype::is_f32")]
    pub dtype: Dtype,
    /// Steps from one change of the pattern to the next.
    #[arg(long, default_value_t = 20, help_heading = "Pruning")]
    pub interval: usize,
    /// Share of the steps after which the pattern is final.
    #[arg(long, default_value_t = 0.7, help_heading = "Pruning")]
    pub end_fraction: f64,
    /// How removed blocks come back.
    #[arg(long, value_enum, default_value_t = Regrowth::Gradient, help_heading = "Pruning")]
    pub growth: Regrowth,
    /// Share of the kept blocks exchanged at the first update.
    #[arg(long, default_value_t = 0.3, help_heading = "Pruning")]
    pub growth_fraction: f64,
    /// Train adapters of this rank beside the block-sparse MLP weights of MODEL, and nothing else.
    #[arg(
        long,
        value_name = "RANK",
        help_heading = "Adapters",
        conflicts_with_all = [
            "sparsity", "block", "keep_last", "interval", "end_fraction", "growth", "growth_fraction",
        ]
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<usize>,
    /// What an adapter adds is multiplied by ALPHA / RANK. Default: 16.
    #[arg(long, value_name = "ALPHA", help_heading = "Adapters", requires = "lora")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_alpha: Option<f64>,
    /// Dense checkpoint to learn from beside the text; usually MODEL.
    #[arg(long, value_name = "MODEL", help_heading = "Distillation")]
    pub teacher: Option<PathBuf>,
    /// Weight of the loss of the next token.
    #[arg(long, default_value_t = 1.0, help_heading = "Distillation", requires = "teacher")]
    pub next_token: f64,
    /// Weight of the divergence from the teacher's scores.
    #[arg(long, default_value_t = 1.0, help_heading = "Distillation", requires = "teacher")]
    pub divergence: f64,
    /// Both scores are divided by this before they are compared.
    #[arg(long, default_value_t = 1.0, help_heading = "Distillation", requires = "teacher")]
    pub temperature: f64,
    /// Weight of the distance between features, layer by layer, relative to the teacher's.
    #[arg(long, default_value_t = 0.0, help_heading = "Distillation", requires = "teacher")]
    pub features: f64,
}

/// Arguments of `merge`.
#[derive(clap::Args, Clone, Debug)]
pub struct MergeArgs {
    /// Checkpoint with adapters, as `fine-tune --lora` writes it.
    pub model: PathBuf,
    /// Folder to write; must not exist.
    pub out: PathBuf,
    /// Keep the weights block-sparse, and lose what an adapter changes outside their blocks. Without it the weights
    /// become dense, and the model computes what it did.
    #[arg(long)]
    pub within: bool,
}

/// Precision of a model in training.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the range of 32.
    Bf16,
}

impl Dtype {
    /// Whether it is the one that runs had before there was a choice: their logs do not name it.
    fn is_f32(&self) -> bool {
        *self == Self::F32
    }
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::BF16,
        }
    }
}

/// How removed blocks come back.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Regrowth {
    /// Those with the largest gradient.
    Gradient,
    /// By chance.
    Random,
    /// They do not.
    None,
}

impl From<Regrowth> for Growth {
    fn from(regrowth: Regrowth) -> Self {
        match regrowth {
            Regrowth::Gradient => Self::Gradient,
            Regrowth::Random => Self::Random,
            Regrowth::None => Self::None,
        }
    }
}

/// Arguments of `measure`.
#[derive(clap::Args, Clone, Debug)]
pub struct MeasureArgs {
    /// Checkpoints; the first one is what the others are compared with.
    #[arg(required = true)]
    pub models: Vec<PathBuf>,
    /// Texts; the last tenth is scored.
    #[command(flatten)]
    pub text: TextArgs,
    /// Tokens of the prompt that is timed.
    #[arg(long, default_value_t = 256)]
    pub prefill: usize,
    /// Tokens added one by one.
    #[arg(long, default_value_t = 64)]
    pub decode: usize,
    /// Rounds of the timing, through all checkpoints in turn.
    #[arg(long, default_value_t = 9)]
    pub rounds: usize,
    /// Where to compute; GPUs need a build with their feature.
    #[arg(long, value_enum, default_value_t = Backend::Flex)]
    pub backend: Backend,
    /// File for the results, one line of JSON a checkpoint.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// File for a plot of loss against sparsity; names that differ only in a number at the end make one curve.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_option_explained() {
        Args::command().debug_assert();
        for command in Args::command().get_subcommands() {
            for option in command.get_arguments() {
                assert!(option.get_help().is_some(), "{} {}", command.get_name(), option.get_id());
            }
        }
    }
}
