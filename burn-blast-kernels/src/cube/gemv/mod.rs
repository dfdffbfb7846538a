//! Few rows, as in decoding: `y = x · w + bias` and the gated pair of products, both bound by reading the values once.
//!
//! # Supported
//! One to sixteen rows at a time (more are read again for each sixteen); every block; f32, f16 and bf16, and int8
//! values with one scale per block.

pub(super) mod base;
pub(super) mod kernel;
mod launch;
pub(super) mod reduce;

pub(super) use launch::{Tensors, Weight, launch};
