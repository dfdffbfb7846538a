//! Frobenius norm of each kept block.

pub(super) mod base;
mod kernel;
mod launch;

pub(super) use launch::launch;
