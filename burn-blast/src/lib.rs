//! Block-sparse linear layers for Burn that train, prune, grow, save and serve on every backend, by the
//! BLaST method ([arXiv 2507.03117](https://arxiv.org/abs/2507.03117)).

pub mod advice;
mod backends;
#[cfg(feature = "calibrate")]
pub mod calibrate;
mod found;
pub mod functions;
pub mod io;
pub mod module;
mod ops;
pub mod prune;
mod quantize;
pub mod report;
#[cfg(feature = "train")]
pub mod train;
mod warm;
mod weight;
mod window;

pub use burn_blast_checkpoint::format::LayoutError;
#[cfg(feature = "cube")]
pub use burn_blast_kernels::cube::{allow_tf32, tf32_allowed};
pub use burn_blast_kernels::{
    BlockMask, BlockPattern, BlockSize, MatrixShape, PathChoice, PathReason, PatternError,
    PatternId, ProductPath, Strategy, cost,
};
pub use module::{
    BlockSparseGatedMlp, BlockSparseGatedMlpConfig, BlockSparseLinear, BlockSparseLinearConfig,
    BlockSparseMlp, BlockSparseMlpConfig, LoraLinear, LoraLinearConfig, MergeError, MlpActivation,
};
pub use ops::{BlastOps, GatedPatterns, MlpPatterns};
pub use prune::{Blast, BlastConfig, BlastError, Growth};
pub use quantize::{QuantizeError, quantize};
pub use warm::warm_up;
pub use weight::BlockSparseWeight;

/// The code in READMEs and in the book is compiled with the tests.
#[cfg(doctest)]
mod book {
    macro_rules! page {
        ($($name:ident: $path:literal),* $(,)?) => {
            $(#[doc = include_str!($path)] struct $name;)*
        };
    }
    page! {
        Readme: "../../README.md",
        CrateReadme: "../README.md",
        QuickStart: "../../docs/src/quick-start.md",
        Training: "../../docs/src/training.md",
        Files: "../../docs/src/files.md",
        Backends: "../../docs/src/backends.md",
        Devices: "../../docs/src/devices.md",
        TensorParallel: "../../docs/src/tensor-parallel.md",
        WhenItPays: "../../docs/src/when-it-pays.md",
    }
}
