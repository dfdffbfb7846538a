//! Options that several commands share, with the same names and defaults everywhere.

use std::path::PathBuf;

use burn_blast_models::{BackendKind, Blocks, Precision, Sequences};
use clap::Args;
use serde::{Deserialize, Serialize};

/// Side of a block.
pub const BLOCK: usize = 32;

/// Share of blocks that is removed.
pub const SPARSITY: f64 = 0.9;

/// Which blocks are removed.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockArgs {
    /// Share of blocks to remove, at least 0 and below 1
    #[arg(long, value_name = "SHARE", default_value_t = SPARSITY)]
    pub sparsity: f64,

    /// Side of a block: 8, 16, 32, 64 or 128
    #[arg(long, value_name = "SIDE", default_value_t = BLOCK)]
    pub block: usize,

    /// Leave the last layers dense
    #[arg(long, value_name = "LAYERS", default_value_t = 0)]
    pub dense_last: usize,
}

impl BlockArgs {
    /// As the models take them.
    pub fn blocks(&self) -> Blocks {
        let Self { sparsity, block, dense_last } = *self;
        Blocks { sparsity, block, dense_last }
    }
}

/// Where a model runs.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceArgs {
    /// Where to compute; GPUs need a build with their feature
    #[arg(long, value_enum, default_value_t = BackendKind::Flex, help_heading = "Device")]
    pub backend: BackendKind,

    /// Data type of weights and features [default: f32 on a CPU, otherwise the checkpoint's]
    #[arg(long, value_enum, help_heading = "Device")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Precision>,
}

impl DeviceArgs {
    /// The data type asked for, or the one that suits the backend: a CPU converts others for every product.
    pub fn precision(&self) -> Precision {
        let host = if self.backend.is_host() { Precision::F32 } else { Precision::File };
        self.dtype.unwrap_or(host)
    }
}

/// Which model, and how it runs.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Folder of the model
    pub model: PathBuf,

    /// Where it runs.
    #[command(flatten)]
    pub device: DeviceArgs,

    /// Leave out hidden features and heads that contribute nothing, as `compact` shows them
    #[arg(long)]
    pub compact: bool,

    /// Round block-sparse weights to 8-bit integers, one scale per block: a quarter of the bytes of f32
    #[arg(long)]
    pub int8: bool,
}

/// A text to train on, and how it is cut.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CorpusArgs {
    /// Text file, or JSON lines with a "text" in each; the last tenth is held out
    #[arg(long, value_name = "FILE")]
    pub corpus: PathBuf,

    /// How it is cut.
    #[command(flatten)]
    pub sequences: SequenceArgs,
}

/// How a text is cut.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SequenceArgs {
    /// Tokens in a sequence
    #[arg(long, value_name = "TOKENS", default_value_t = Sequences::new().context)]
    pub context: usize,

    /// Sequences that pass through the model at once
    #[arg(long, value_name = "SEQUENCES", default_value_t = Sequences::new().batch)]
    pub batch: usize,
}

impl SequenceArgs {
    /// As the models take them.
    pub fn sequences(&self) -> Sequences {
        Sequences { context: self.context, batch: self.batch }
    }
}

/// How the result is printed.
#[derive(Args, Clone, Copy, Debug)]
pub struct JsonArgs {
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}
