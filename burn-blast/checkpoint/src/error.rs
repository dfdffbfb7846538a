//! What can be wrong with a checkpoint.

use std::io;
use std::path::{Component, Path, PathBuf};

use burn_blast_kernels::PatternError;

use crate::format::FormatError;

/// Why a checkpoint was not read or written. Every message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The system refused to read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The system refused to write.
    #[error("cannot write {}: {cause}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The folder holds no safetensors file, or several and nothing says which belong together.
    #[error("{} {reason}", path.display())]
    NoCheckpoint {
        /// The folder.
        path: PathBuf,
        /// What it holds, and what to do.
        reason: String,
    },
    /// A file is not safetensors, ends too early, or goes on after its last tensor.
    #[error("{} {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A GGUF file is damaged, or asks for something that is not implemented.
    #[error("{} {reason}; the model's folder of safetensors may be read instead", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The index cannot be read, or contradicts the files.
    #[error("the index {}: {reason}", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Two files hold a tensor of the same name.
    #[error(
        "tensor \"{name}\" is in {first} and in {second}: the files do not belong to one checkpoint"
    )]
    Duplicate {
        /// The tensor.
        name: String,
        /// A file.
        first: String,
        /// Another.
        second: String,
    },
    /// The entry `burn_blast` of a file's metadata cannot be read.
    #[error("{}: the metadata entry \"burn_blast\" {reason}: update blast or write the file again", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The output is already there.
    #[error("{} is already there: give another name, or --force to replace it", .0.display())]
    Exists(PathBuf),
    /// The output is something else.
    #[error("{} is not {expected}, so --force does not replace it: give another name", path.display())]
    NotReplaceable {
        /// The output.
        path: PathBuf,
        /// What could be replaced.
        expected: &'static str,
    },
    /// The output is the input, or one is inside the other.
    #[error("the output {} is in the input, or holds it: write somewhere else", .0.display())]
    Overlap(PathBuf),
    /// A tensor of a packed weight is not there.
    #[error(
        "the packed weight \"{name}\" has no \"{name}.{leaf}\": the file is damaged, write it again"
    )]
    TensorMissing {
        /// The weight.
        name: String,
        /// What follows it in the tensor's name.
        leaf: &'static str,
    },
    /// A tensor of a packed weight has another type or shape.
    #[error(
        "\"{name}.{leaf}\" is {found}, but must be {expected}: the file is damaged, write it again"
    )]
    TensorShape {
        /// The weight.
        name: String,
        /// What follows it in the tensor's name.
        leaf: &'static str,
        /// Type and shape found.
        found: String,
        /// Type and shape needed.
        expected: String,
    },
    /// The indices of a packed weight are not a pattern.
    #[error("the packed weight \"{name}\": {cause}")]
    Layout {
        /// The weight.
        name: String,
        /// What is wrong.
        cause: FormatError,
    },
    /// A ragged block holds something outside the weight.
    #[error(
        "the packed weight \"{name}\": block {slot}, at block row {row} and column {col}, is not zero outside the weight: the file is damaged, write it again"
    )]
    Padding {
        /// The weight.
        name: String,
        /// The block's slot.
        slot: usize,
        /// Its block row.
        row: usize,
        /// Its block column.
        col: usize,
    },
    /// A tensor holds an infinite number, or something that is no number.
    #[error(
        "tensor \"{name}\" is infinite or not a number at element {at}: the file is damaged or the training diverged, so take \
         another copy or an earlier checkpoint"
    )]
    NotFinite {
        /// The tensor.
        name: String,
        /// Number of its first such element.
        at: usize,
    },
    /// A weight is there twice.
    #[error("the weight \"{0}\" is there both dense and packed: remove one of them")]
    Both(String),
    /// The size of a weight is not supported.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

impl CheckpointError {
    /// What is wrong with reading from `path`.
    pub fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |cause| Self::Read { path, cause }
    }

    /// What is wrong with opening a checkpoint, or a file of one, at `path`.
    pub fn open(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |cause| match cause.kind() {
            io::ErrorKind::NotFound => {
                let reason = absent(&path).to_owned();
                Self::NoCheckpoint { path, reason }
            }
            _ => Self::Read { path, cause },
        }
    }

    /// What is wrong with writing to `path`.
    pub fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |cause| match cause.kind() {
            io::ErrorKind::AlreadyExists => Self::Exists(path),
            _ => Self::Write { path, cause },
        }
    }
}

/// Why nothing is at a path.
fn absent(path: &Path) -> &'static str {
    let is_link = path.symlink_metadata().is_ok();
    let mut parts = path.components();
    let names = [parts.next(), parts.next()].map(|part| matches!(part, Some(Component::Normal(_))));
    let is_file = path.extension().is_some_and(|end| end == "safetensors" || end == "json");
    match (is_link, !is_file && names == [true, true] && parts.next().is_none()) {
        (true, _) => {
            "is a link that leads nowhere: fetch the file again, or take the folder that has it"
        }
        (_, true) => {
            "is not there; if it names a repository, fetch that first: `hf download NAME --local-dir FOLDER`"
        }
        _ => "is not there: check the path, or fetch the file again",
    }
}
