//! Dense weights to packed values and back.

mod kernel;
mod launch;

pub use launch::{pack, unpack};
