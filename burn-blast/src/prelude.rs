//! What most users import: `use burn_blast::prelude::*`.

pub use crate::module::{
    AnyLinear, BlockSparseGatedMlp, BlockSparseGatedMlpConfig, BlockSparseLinear,
    BlockSparseLinearConfig, BlockSparseMlp, BlockSparseMlpConfig, LoraLinear, LoraLinearConfig,
    MlpActivation,
};
pub use crate::prune::{Blast, BlastConfig, BlastError, Budget, Growth, Schedule, Score};
pub use crate::tuning::Strategy;
