//! Block-sparse linear layers for Burn that train, prune, grow, save and serve on every backend, by the
//! BLaST method ([arXiv 2507.03117](https://arxiv.org/abs/2507.03117)).
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use burn_blast::prelude::*;
//!
//! let device = Device::flex();
//! let layer = BlockSparseLinearConfig::new(64, 128).with_sparsity(0.75).init(&device);
//! assert_eq!(layer.forward(Tensor::<2>::ones([1, 64], &device)).dims(), [1, 128]);
//! ```
//!
//! Start with [`prelude`], then [`module`] for the layers, [`prune`] for training and [`io`] for files.
//!
//! # Order of the modules
//! A module imports only from lines below its own:
//!
//! ```text
//! prelude
//! train / calibrate / tuning / report
//! prune
//! io
//! module
//! weight
//! functions
//! quantize
//! backends / window
//! ops / break_even
//! feed_forward / error
//! ```

mod backends;
mod break_even;
#[cfg(feature = "calibrate")]
pub mod calibrate;
mod error;
mod feed_forward;
pub mod functions;
pub mod io;
pub mod module;
mod ops;
pub mod prelude;
pub mod prune;
mod quantize;
pub mod report;
#[cfg(feature = "train")]
pub mod train;
pub mod tuning;
mod weight;
mod window;

pub use burn_blast_kernels::{
    BlockMask, BlockPattern, BlockSize, MatrixShape, PatternError, PatternId,
};

/// The code of the README is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
