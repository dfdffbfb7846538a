//! Layers.

mod activation;
mod any_linear;
mod compact;
mod gated_mlp;
mod linear;
mod lora;
mod mlp;

pub use activation::MlpActivation;
pub use any_linear::AnyLinear;
pub use compact::live_features;
pub use gated_mlp::{BlockSparseGatedMlp, BlockSparseGatedMlpConfig};
pub(crate) use linear::is_host;
pub use linear::{BlockSparseLinear, BlockSparseLinearConfig, LinearConfigError};
pub use lora::{LoraLinear, LoraLinearConfig, MergeError};
pub use mlp::{BlockSparseMlp, BlockSparseMlpConfig};
