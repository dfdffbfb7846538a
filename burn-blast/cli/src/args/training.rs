//! Options of the commands that make a model sparse and train it.

use std::path::PathBuf;

use burn_blast::prune::{BlastConfig, Growth, Score, Structure};
use burn_blast_models::fine_tune::{Decay, TrainConfig};
use burn_blast_models::one_shot::Method;
use burn_blast_models::{DecoderConfig, Sequences};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{BlockArgs, CorpusArgs, DeviceArgs, OutputArgs};

fn is_zero(weight: &f64) -> bool {
    *weight == 0.0
}

fn train() -> TrainConfig {
    TrainConfig::new(1000)
}

fn blast() -> BlastConfig {
    BlastConfig::new(train().steps)
}

/// How a model is trained.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainArgs {
    #[command(flatten)]
    pub text: CorpusArgs,

    #[command(flatten)]
    pub device: DeviceArgs,

    /// Optimizer steps
    #[arg(long, default_value_t = train().steps)]
    pub steps: usize,

    /// Batches whose gradients are summed before a step
    #[arg(long, value_name = "BATCHES", default_value_t = train().accumulate)]
    pub accumulate: usize,

    /// Highest learning rate
    #[arg(long, default_value_t = train().lr)]
    pub lr: f64,

    /// How the learning rate falls after its rise
    #[arg(long, value_enum, default_value_t = train().decay)]
    pub decay: Decay,

    /// Steps in which the learning rate rises
    #[arg(long, value_name = "STEPS", default_value_t = train().warm_up as usize)]
    pub warm_up: usize,

    /// Largest norm of the gradient of each parameter by itself
    #[arg(long, value_name = "NORM", default_value_t = train().gradient_norm)]
    pub clip: f32,

    /// Decay of the weights
    #[arg(long, default_value_t = train().weight_decay)]
    pub weight_decay: f32,

    /// Steps from one evaluation to the next
    #[arg(long, value_name = "STEPS", default_value_t = train().eval_every)]
    pub eval_every: usize,

    /// Held-out sequences that an evaluation scores at most
    #[arg(long, value_name = "SEQUENCES", default_value_t = train().evaluated)]
    pub evaluated: usize,

    /// Steps from one checkpoint of the run to the next
    #[arg(long, value_name = "STEPS", default_value_t = train().save_every)]
    pub save_every: usize,

    /// Seed of weights and batches
    #[arg(long, default_value_t = train().seed)]
    pub seed: u64,

    /// Resume the interrupted run of this OUTPUT
    #[arg(long)]
    #[serde(skip)]
    pub resume: bool,
}

impl TrainArgs {
    /// As the models take them.
    pub fn config(&self) -> TrainConfig {
        TrainConfig {
            steps: self.steps,
            sequences: self.text.sequences,
            accumulate: self.accumulate,
            lr: self.lr,
            decay: self.decay,
            warm_up: self.warm_up as f64,
            gradient_norm: self.clip,
            weight_decay: self.weight_decay,
            eval_every: self.eval_every,
            evaluated: self.evaluated,
            save_every: self.save_every,
            seed: self.seed,
            ..train()
        }
    }
}

#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DenseArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub out: OutputArgs,

    #[command(flatten)]
    pub train: TrainArgs,

    /// Width of the model
    #[arg(long, default_value_t = DecoderConfig::default().hidden_size, help_heading = "Sizes")]
    pub width: usize,

    /// Width inside the MLPs
    #[arg(long, default_value_t = DecoderConfig::default().intermediate_size, help_heading = "Sizes")]
    pub hidden: usize,

    /// Number of layers
    #[arg(long, default_value_t = DecoderConfig::default().num_hidden_layers, help_heading = "Sizes")]
    pub layers: usize,

    /// Attention heads
    #[arg(long, default_value_t = DecoderConfig::default().num_attention_heads, help_heading = "Sizes")]
    pub heads: usize,

    /// Heads of keys and values
    #[arg(long, default_value_t = DecoderConfig::default().num_key_value_heads, help_heading = "Sizes")]
    pub kv_heads: usize,
}

impl DenseArgs {
    /// Sizes of the model, over bytes.
    pub fn sizes(&self) -> DecoderConfig {
        let default = DecoderConfig::default();
        DecoderConfig {
            hidden_size: self.width,
            intermediate_size: self.hidden,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.kv_heads,
            head_dim: self.width / self.heads.max(1),
            max_position_embeddings: self
                .train
                .text
                .sequences
                .context
                .max(default.max_position_embeddings),
            ..default
        }
    }
}

#[derive(Args, Clone, Debug)]
pub struct OneShotArgs {
    /// Folder of the dense model
    pub model: PathBuf,

    #[command(flatten)]
    pub out: OutputArgs,

    #[command(flatten)]
    pub blocks: BlockArgs,

    #[command(flatten)]
    pub device: DeviceArgs,

    /// How blocks are chosen, and whether the kept ones make up for the others [default: taylor, with --stream
    /// wanda-corrected]
    #[arg(long, value_enum)]
    pub method: Option<Method>,

    /// Text to calibrate on, JSON lines with a "text" in each, or a folder of them; the last tenth is left out. Required
    /// unless --method magnitude
    #[arg(
        long,
        value_name = "FILE|DIR",
        required_unless_present = "method",
        required_if_eq_any = [("method", "wanda"), ("method", "wanda-corrected"), ("method", "taylor")]
    )]
    pub corpus: Option<PathBuf>,

    /// Sequences to calibrate on
    #[arg(long, default_value_t = 64, requires = "corpus")]
    pub sequences: usize,

    /// Tokens in a sequence
    #[arg(long, value_name = "TOKENS", default_value_t = Sequences::new().context, requires = "corpus")]
    pub context: usize,

    /// Hold one layer in memory at a time and write a file for each, for models larger than memory
    #[arg(long)]
    pub stream: bool,

    /// With wanda-corrected: how strongly corrected values are drawn to the old ones, relative to the mean square of the
    /// inputs [default: 0.01]
    #[arg(long)]
    pub damping: Option<f64>,
}

#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FineTuneArgs {
    /// Folder of the model to start from; dense, or block-sparse: then its block and sparsity are the defaults
    #[serde(serialize_with = "crate::paths::one")]
    pub model: PathBuf,

    #[command(flatten)]
    #[serde(flatten)]
    pub out: OutputArgs,

    #[command(flatten)]
    pub train: TrainArgs,

    #[command(flatten)]
    pub blocks: BlockArgs,

    /// Steps from one change of the pattern to the next
    #[arg(long, value_name = "STEPS", default_value_t = blast().interval, help_heading = "Pruning")]
    pub interval: usize,

    /// Share of the steps after which the pattern is final
    #[arg(long, value_name = "SHARE", default_value_t = blast().end_fraction, help_heading = "Pruning")]
    pub end_fraction: f64,

    /// How removed blocks come back
    #[arg(long, value_enum, default_value_t = blast().growth, help_heading = "Pruning")]
    pub growth: Growth,

    /// Share of the kept blocks exchanged at the first update
    #[arg(long, value_name = "SHARE", default_value_t = blast().growth_fraction, help_heading = "Pruning")]
    pub growth_fraction: f64,

    /// Which blocks of an MLP are selected together
    #[arg(long, value_enum, default_value_t = blast().structure, help_heading = "Pruning")]
    pub structure: Structure,

    /// What kept blocks are ranked by [default: frobenius]
    #[arg(long, value_enum, help_heading = "Pruning")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,

    /// With --score saliency or taylor: share of the mean over the steps before that a step keeps [default: 0]
    #[arg(long, value_name = "SHARE", help_heading = "Pruning", requires = "score")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_decay: Option<f64>,

    /// Let the blocks of all layers compete by score; each layer keeps at least this share of its own
    #[arg(long, value_name = "SHARE", help_heading = "Pruning")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global: Option<f64>,

    /// Keep the blocks that MODEL has, and train their values alone
    #[arg(
        long,
        help_heading = "Pruning",
        conflicts_with_all = [
            "sparsity", "block", "dense_last", "interval", "end_fraction", "growth", "growth_fraction",
            "structure", "score", "global", "lora",
        ]
    )]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_pattern: bool,

    /// Train the MLPs alone: attention, norms and embeddings stay as they are
    #[arg(long, conflicts_with = "lora")]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_mlps: bool,

    /// Train adapters of this rank beside the block-sparse MLP weights of MODEL; the model itself is frozen
    #[arg(
        long,
        value_name = "RANK",
        help_heading = "Adapters",
        conflicts_with_all = [
            "sparsity", "block", "dense_last", "interval", "end_fraction", "growth", "growth_fraction",
            "structure", "score", "global",
        ]
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<usize>,

    /// The output of an adapter is multiplied by ALPHA / RANK [default: 16]
    #[arg(long, value_name = "ALPHA", help_heading = "Adapters", requires = "lora")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_alpha: Option<f64>,

    /// Folder of a dense model to learn from beside the text; usually MODEL
    #[arg(long, value_name = "MODEL", help_heading = "Distillation")]
    #[serde(serialize_with = "crate::paths::any")]
    pub teacher: Option<PathBuf>,

    /// Weight of the loss of the next token
    #[arg(
        long,
        value_name = "WEIGHT",
        default_value_t = 1.0,
        help_heading = "Distillation",
        requires = "teacher"
    )]
    pub next_token: f64,

    /// Weight of the divergence from the teacher's scores
    #[arg(
        long,
        value_name = "WEIGHT",
        default_value_t = 1.0,
        help_heading = "Distillation",
        requires = "teacher"
    )]
    pub divergence: f64,

    /// Both scores are divided by this before they are compared
    #[arg(long, default_value_t = 1.0, help_heading = "Distillation", requires = "teacher")]
    pub teacher_temperature: f64,

    /// Weight of the distance between hidden states, layer by layer, relative to the teacher's
    #[arg(
        long,
        value_name = "WEIGHT",
        default_value_t = 0.0,
        help_heading = "Distillation",
        requires = "teacher"
    )]
    pub hidden_states: f64,

    /// Weight of the distance of each MLP from the teacher's, relative to it; both are given what the teacher's takes
    #[arg(
        long,
        value_name = "WEIGHT",
        default_value_t = 0.0,
        help_heading = "Distillation",
        requires = "teacher"
    )]
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mlps: f64,
}

#[derive(Args, Clone, Debug)]
pub struct MergeArgs {
    /// Folder of a model with adapters, as `fine-tune --lora` writes it
    pub model: PathBuf,

    #[command(flatten)]
    pub out: OutputArgs,

    /// Keep the weights block-sparse, and lose what an adapter changes outside their blocks; otherwise they become
    /// dense, and the model computes what it did
    #[arg(long)]
    pub within: bool,
}
