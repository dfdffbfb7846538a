//! Checkpoints, models and programs, against what the transformers library makes of the same files.

mod activations;
mod common;
mod compact;
mod densified;
mod inside;
mod programs;
mod reference;
mod refusals;
