//! Layers.

mod any_linear;
mod compact;
mod gated_mlp;
mod linear;
mod lora;
mod mlp;

pub use any_linear::AnyLinear;
pub use compact::live_features;
pub use gated_mlp::{BlockSparseGatedMlp, BlockSparseGatedMlpConfig};
pub use linear::{BlockSparseLinear, BlockSparseLinearConfig, LinearConfigError};
pub use lora::{LoraLinear, LoraLinearConfig, MergeError};
pub use mlp::{BlockSparseMlp, BlockSparseMlpConfig};

pub use crate::feed_forward::MlpActivation;
pub use crate::quantize::{QuantizeError, quantize};
pub use crate::weight::BlockSparseWeight;
