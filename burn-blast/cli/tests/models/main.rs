//! The commands that work on models, and files between `blast` and the libraries.

mod activations;
#[path = "../../../models/tests/models/common/mod.rs"]
mod common;
mod densified;
mod packed;
mod programs;
