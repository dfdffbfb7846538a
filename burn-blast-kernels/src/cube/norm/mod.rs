//! Frobenius norm of each kept block.

pub mod base;
mod kernel;
mod launch;

pub use launch::launch;
