//! Checkpoints and models, compared with what the transformers library makes of the same files.

mod common;
mod compact;
mod inside;
mod reference;
mod refusals;
