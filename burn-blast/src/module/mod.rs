//! Layers.

mod compact;
mod gated_mlp;
mod linear;
mod mlp;

pub use gated_mlp::{BlockSparseGatedMlp, BlockSparseGatedMlpConfig};
pub use linear::{BlockSparseLinear, BlockSparseLinearConfig};
pub use mlp::{BlockSparseMlp, BlockSparseMlpConfig, MlpActivation};
