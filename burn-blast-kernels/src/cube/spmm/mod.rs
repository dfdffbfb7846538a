//! `y = f(x · w + bias) + residual` and `dx = dy · wᵀ + residual`.

pub(super) mod base;
pub(super) mod kernel;
mod launch;

pub(super) use launch::Side;
pub use launch::{spmm, spmm_t};
