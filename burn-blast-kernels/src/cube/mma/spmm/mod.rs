//! `y = f(x · w + bias) + residual` and `dx = dy · wᵀ + residual` on tensor cores.

pub(super) mod base;
pub(super) mod kernel;
mod launch;

pub(crate) use base::select;
pub(crate) use launch::launch;
