//! Frobenius norm of each kept block.

mod base;
mod kernel;
mod launch;

pub(super) use kernel::tree_sum;
pub use launch::block_norms;
