//! Block-sparse patterns and the kernels that multiply by them. This crate does not depend on Burn.
//!
//! ```text
//! BlockMask ─► BlockPattern ─────┐
//!                                ├─► spmm / spmm_t / sddmm / norms   (cpu: SIMD, cube: GPU)
//! dense weight ─► pack ─► values ┘
//! ```
//!
//! The format is drawn in [`pattern`]. All kernels are tested against the module `reference` (feature `testing`), a
//! plain implementation in f64 with an error bound per element.
//!
//! # Example
//! ```
//! use burn_blast_kernels::{BlockMask, BlockPattern, BlockSize, MatrixShape, cpu};
//!
//! let shape = MatrixShape::new(48, 32)?;
//! let block = BlockSize::new(16)?;
//! let mut mask = BlockMask::empty(shape, block);
//! mask.set(0, 0, true);
//! mask.set(2, 1, true);
//! let pattern = BlockPattern::from_mask(&mask);
//!
//! let x = vec![1.0_f32; 2 * 48];
//! let values = vec![0.5_f32; pattern.value_count()];
//! let y = cpu::spmm(&x, &values, None, &pattern, 2);
//! assert_eq!(y.len(), 2 * 32);
//! assert_eq!(y[0], 16.0 * 0.5);
//! # Ok::<(), burn_blast_kernels::PatternError>(())
//! ```

#![warn(unreachable_pub)]

mod activation;
pub mod budget;
pub mod cost;
pub mod cpu;
#[cfg(feature = "cube")]
pub mod cube;
#[cfg(feature = "plot")]
pub mod draw;
mod error;
pub mod pack;
pub mod pattern;
#[cfg(any(test, feature = "testing"))]
pub mod reference;
pub mod strategy;

pub use activation::Activation;
pub use error::PatternError;
pub use pattern::{BlockMask, BlockPattern, BlockSize, MatrixShape, PatternId};
pub use strategy::{PathChoice, PathReason, ProductPath, Strategy};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
