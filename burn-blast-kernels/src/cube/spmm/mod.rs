//! `y = x · w + bias` and `dx = dy · wᵀ`.

mod base;
mod kernel;
mod launch;

pub(super) use launch::Side;
pub use launch::{spmm, spmm_t};
