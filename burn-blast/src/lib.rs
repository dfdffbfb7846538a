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
//! In training, two lines differ from a dense model: the type of the layer and the optimizer.
//!
//! ```
//! use burn::optim::{AdamWConfig, GradientsParams};
//! use burn::tensor::{Device, Tensor};
//! use burn_blast::prelude::*;
//!
//! let device = Device::flex().autodiff();
//! let model = BlockSparseLinearConfig::new(64, 64).init(&device);
//! let config = BlastConfig::new(20).with_sparsity(0.5).with_interval(5);
//! let (mut model, mut optim) = Blast::new(AdamWConfig::new().build(), config).attach(model)?;
//! for _ in 0..20 {
//!     let loss = model.forward(Tensor::<2>::ones([4, 64], &device)).square().mean();
//!     let grads = GradientsParams::from_grads(loss.backward(), &model);
//!     model = optim.step(1e-3, model, grads);
//! }
//! assert_eq!(model.sparsity(), 0.5);
//! # Ok::<(), BlastError>(())
//! ```
//!
//! | module | content |
//! |---|---|
//! | [`prelude`] | what most users import |
//! | [`module`] | the layers: linear, gated and two-layer MLPs, low-rank adapters |
//! | [`prune`] | [`Blast`](prune::Blast), the optimizer that drops and grows blocks, and its settings |
//! | [`io`] | files: burnpack, safetensors, checkpoints of Hugging Face |
//! | [`report`] | summaries and plots |
//! | [`tuning`] | sparse or dense product, by measurement or by a cost model |
//! | [`functions`] | the operations on tensors, and the trait that a backend implements |
//! | `train`, `calibrate` | metrics for `burn::train`; one-shot sparsification; behind features of these names |
//!
//! # Features
//! - `flex` (default), `ndarray`, `wgpu`, `vulkan`, `metal`, `webgpu`, `cuda`, `rocm`, `cpu`: backends
//! - `fusion`, `autotune`: as in Burn
//! - `train`, `calibrate`: the modules of these names; `plot`: SVG plots in [`report`]; `clap`: [`prune::Growth`]
//!   and [`prune::Structure`] are values of options

mod attention;
mod backends;
mod break_even;
#[cfg(feature = "calibrate")]
pub mod calibrate;
mod error;
mod feed_forward;
pub mod functions;
mod int4;
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
