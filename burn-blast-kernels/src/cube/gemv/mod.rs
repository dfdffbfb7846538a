//! Few rows, as in decoding: `y = x · w + bias` and the gated pair of products, both bound by reading the
//! values once.
//!
//! # Supported
//! One to sixteen rows at a time (more are read again for each sixteen); every block; f32, f16 and bf16, and
//! int8 values with one scale a block.
//!
//! # Refused
//! By [`gated_few_rows`] and [`spmm_int8`], a device that [`base::lacks`] something they need. [`base::few_rows`] leaves
//! it, and many rows, to the other kernels; for integers there are none.

pub(super) mod base;
pub mod catalogue;

mod finish;
mod kernel;
mod launch;
mod pieces;

pub(super) use launch::spmm;
pub use launch::{
    Gated, gated_few_rows, serves_few_rows, serves_gated_few_rows, serves_int8, spmm_int8,
};
