//! `y = f(x · w + bias) + residual` and `dx = dy · wᵀ + residual`.

pub(super) mod base;
pub(super) mod kernel;
mod launch;
mod plan;
#[cfg(feature = "autotune")]
mod tune;

pub(super) use base::{cubes, shared_bytes};
pub(super) use launch::Side;
pub use launch::{spmm, spmm_t};
