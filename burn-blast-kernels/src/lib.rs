//! Block-sparse patterns and the kernels that multiply by them.
//!
//! This crate knows nothing of Burn's modules or training. Data flows one way:
//!
//! ```text
//! BlockMask ─► BlockPattern ─► plan ─┐
//!                                    ├─► spmm / spmm_t / sddmm / norms   (cpu: SIMD, cube: GPU)
//! dense weight ─► pack ─► values ────┘
//! ```
//!
//! The format is drawn once, in [`pattern`]. Every kernel is held against the f64 oracle in
//! [`reference`](mod@reference), whose error bound follows the data type and the length of each sum.
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
pub mod reference;
pub mod strategy;

pub use error::PatternError;
pub use pattern::{BlockMask, BlockPattern, BlockSize, MatrixShape, PatternId, Plan};
pub use strategy::{Choice, Device, Path, Reason, Strategy};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
