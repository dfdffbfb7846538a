//! `y = f(x · w + bias) + residual` and `dx = dy · wᵀ + residual` on tensor cores.

pub(in crate::cube) mod base;
pub(super) mod catalogue;
pub(super) mod kernel;
mod launch;

pub(crate) use base::candidates;
pub(crate) use launch::launch;
