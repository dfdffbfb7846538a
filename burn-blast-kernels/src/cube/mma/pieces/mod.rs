//! `y = f(x · w + bias) + residual` and `dx = dy · wᵀ + residual` on tensor cores where a few lines of blocks are much longer than the
//! others: those are cut, and their partial sums are added in a fixed order.

pub(in crate::cube) mod base;
pub(super) mod catalogue;
mod kernel;
mod launch;

pub(super) use launch::{find, launch};
