//! Layers: a linear layer and two feed-forward blocks, their weight, adapters and quantisation.

mod any_linear;
mod linear;
mod lora;
mod mlp;

pub use any_linear::AnyLinear;
#[doc(hidden)]
pub use any_linear::live_features;
pub use linear::{BlockSparseLinear, BlockSparseLinearConfig};
pub(crate) use lora::lora_change;
pub use lora::{LoraLinear, LoraLinearConfig};
pub use mlp::{
    BlockSparseGatedMlp, BlockSparseGatedMlpConfig, BlockSparseMlp, BlockSparseMlpConfig,
};

pub use crate::error::LayerError;
pub use crate::feed_forward::MlpActivation;
pub use crate::quantize::{Integer, quantize};
pub use crate::weight::BlockSparseWeight;
