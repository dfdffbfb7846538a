//! `y = x · w + bias` and `dx = dy · wᵀ`.

mod base;
mod kernel;
mod launch;
mod plan;
#[cfg(feature = "autotune")]
mod tune;

pub(super) use base::{cubes, shared_bytes};
pub(super) use launch::Side;
pub use launch::{spmm, spmm_t};
