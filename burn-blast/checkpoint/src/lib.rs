//! Checkpoints with block-sparse weights: safetensors files and Hugging Face folders, without Burn.
//!
//! # Reading
//! 1. [`Checkpoint::open`] finds the files of a folder ([`Source`], [`Index`]) and maps them ([`Shard`]).
//! 2. [`Checkpoint::tensor`] gives a [`TensorView`]: data type, shape, and bytes where they are mapped.
//! 3. [`DenseWeight`] reads a dense matrix by blocks, in either [`Orientation`] ([`DenseLayout`]); [`PackedWeight`]
//!    reads and checks the tensors of a packed weight, whose names and numbers [`mod@format`] defines.
//!
//! A GGUF file is read as the folder that [`gguf`] unpacks.
//!
//! # Writing
//! 1. An [`Entry`] is a tensor to be written. Its bytes are made while they are written.
//! 2. [`write_safetensors`] writes one file. [`rewrite`] writes a whole checkpoint with the same files as another, for
//!    programs that convert checkpoints.
//! 3. [`atomic`] puts files and folders in place when they are complete.
//!
//! # Example
//! ```
//! use burn_blast_checkpoint::{Checkpoint, Entry, FileContent, atomic::AtomicFile, write_safetensors};
//! use safetensors::Dtype;
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("model.safetensors");
//! let bias = Entry::new("bias", Dtype::F32, vec![2], |out| out.write_all(&[0; 8]));
//! let content = FileContent { metadata: Default::default(), entries: vec![bias] };
//! let mut file = AtomicFile::new(&path, false)?;
//! write_safetensors(&mut file, &content, &mut |_| {})?;
//! file.finish()?;
//!
//! let checkpoint = Checkpoint::open(folder.path())?;
//! assert_eq!(checkpoint.names(), ["bias"]);
//! assert_eq!(checkpoint.tensor("bias").unwrap().shape(), [2]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod atomic;
mod checkpoint;
mod dense;
mod entry;
mod error;
pub mod format;
pub mod gguf;
pub mod json;
mod packed;
mod rewrite;
mod shard;

pub use checkpoint::{Checkpoint, Index, Source, name_parts, write_index};
pub use dense::{DenseLayout, DenseWeight, Orientation, transposed};
pub use entry::Entry;
pub use error::CheckpointError;
pub use packed::{FileMetadata, PackedWeight};
pub use rewrite::{
    FileContent, Output, Progress, Written, check_apart, check_output, copy_rest, rewrite,
    write_safetensors,
};
pub use shard::{LFS_POINTER, Shard, TensorView};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
