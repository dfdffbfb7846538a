//! Files: models with block-sparse layers in one call, whatever blocks they keep.
//!
//! | format | to write | to read |
//! |---|---|---|
//! | burnpack, Burn's own, to go on training | [`save`], [`save_optimizer`] | [`load`], [`load_optimizer`] |
//! | safetensors, for other tools | [`save_safetensors`] | [`load_safetensors`] |
//! | folders and files of Hugging Face | [`Export`] | [`Pretrained`] |
//!
//! Burn refuses a record whose shapes differ from the model's, and a fresh model keeps another number of
//! blocks than a trained one. Loading therefore walks the model twice: the first walk compares every parameter with
//! the file and reads the patterns, the second fills the model. A model is loaded completely or not at all.
//!
//! [`burn_blast_checkpoint::format`] lists the tensors that a block-sparse weight has in a file. A file that holds a
//! dense weight instead loads too: its non-zero blocks are packed. Files are written under a temporary name and
//! renamed.

mod check;
mod collect;
mod error;
mod export;
mod fill;
mod optimizer;
mod pretrained;
mod record;
mod safetensors;
mod tensors;

pub use burn_blast_checkpoint::Orientation;
pub use burn_blast_checkpoint::format::FormatError;
pub use error::IoError;
pub use export::Export;
pub use optimizer::{load_optimizer, save_optimizer};
pub use pretrained::Pretrained;
pub use record::{from_bytes, load, save, size_to, to_bytes};
pub use safetensors::{load_safetensors, save_safetensors};
