//! Checkpoints and models, compared with what the transformers library makes of the same files.

mod common;
mod compact;
mod gguf;
mod inside;
mod published;
mod reference;
mod refusals;
