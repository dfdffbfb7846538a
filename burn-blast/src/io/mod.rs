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

mod collect;
mod fill;
mod optimizer;
mod pretrained;
mod record;
mod safetensors;
mod tensors;

pub use burn_blast_checkpoint::atomic::AtomicFolder;
pub use burn_blast_checkpoint::format::FormatError;
pub use burn_blast_checkpoint::{CheckpointError, Orientation, TensorView};
pub use optimizer::{load_optimizer, save_optimizer};
pub use pretrained::Pretrained;
pub use record::{from_bytes, load, save, to_bytes};
pub use safetensors::{Export, load_safetensors, save_safetensors};

use std::path::{Path, PathBuf};

/// Why a file was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// The system refused.
    #[error("{path}: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The bytes are not of this format.
    #[error("this is not a readable {format} file: {reason}")]
    Format {
        /// Name of the format.
        format: &'static str,
        /// What the reader said.
        reason: String,
    },
    /// The model needs a tensor that the file does not have.
    #[error(
        "the file has no tensor \"{name}\": it was saved from another model, or Pretrained::rename must give a tensor \
         this name"
    )]
    Missing {
        /// Path of the parameter.
        name: String,
    },
    /// The file has a tensor that the model does not know.
    #[error(
        "the file has a tensor \"{name}\" that the model does not know: it was saved from another model, or \
         Pretrained::rename must give it another name or None"
    )]
    Unknown {
        /// Name in the file.
        name: String,
    },
    /// `load_safetensors` was given a file of another program, or one made from such a file.
    #[error(
        "{} was not written by io::save_safetensors, so its linear weights may be [d_output, d_input]: load it with \
         io::Pretrained",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A tensor has the wrong shape.
    #[error(
        "tensor \"{name}\" has shape {found:?}, but the model needs {expected:?}: it was saved from a model of another size"
    )]
    Shape {
        /// Path of the parameter.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape of the parameter.
        expected: Vec<usize>,
    },
    /// A tensor has the wrong kind of number.
    #[error("tensor \"{name}\" holds {found}, but the model needs {expected} numbers")]
    Kind {
        /// Path of the parameter.
        name: String,
        /// Data type in the file.
        found: String,
        /// What the parameter holds.
        expected: &'static str,
    },
    /// A quantised tensor has no place in the format.
    #[error(
        "tensor \"{name}\" is quantised, which safetensors has no type for: save with io::save, or quantise after loading"
    )]
    Quantized {
        /// Path of the parameter.
        name: String,
    },
    /// Two tensors have one name after renaming.
    #[error(
        "tensors \"{first}\" and \"{second}\" are both renamed to \"{name}\": rename one of them otherwise, or leave it out"
    )]
    Renamed {
        /// Name in the model.
        name: String,
        /// Name of a tensor in the file.
        first: String,
        /// Name of another.
        second: String,
    },
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The recorded pattern of a layer is not valid.
    #[error("layer \"{layer}\": {cause}")]
    Layout {
        /// Path of the weight.
        layer: String,
        /// What is wrong.
        cause: FormatError,
    },
    /// The optimizer file belongs to another model or another step.
    #[error(
        "the optimizer file holds state for a parameter ({name}) that the model does not have: load the model saved at the same step first"
    )]
    ForeignState {
        /// Name of the entry.
        name: String,
    },
    /// Burn refused the record.
    #[error(transparent)]
    Record(#[from] burn::store::RecordError),
}

impl IoError {
    /// What is wrong with the file at `path`.
    pub(super) fn file(path: &Path) -> impl Fn(std::io::Error) -> Self {
        |cause| Self::File { path: path.to_owned(), cause }
    }
}
