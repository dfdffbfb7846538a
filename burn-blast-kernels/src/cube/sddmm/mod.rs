//! `xᵀ · dy`: at the kept blocks, or as one norm per block of the grid.

mod base;
mod kernel;
mod launch;

pub(super) use base::shared_bytes;
pub use launch::{grad_block_norms, sddmm};
