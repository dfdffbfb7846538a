//! What can be wrong with a checkpoint or a request.

use std::io;
use std::path::PathBuf;

use burn_blast_kernels::PatternError;
use burn_blast_kernels::stored::LayoutError;

/// Why a command was refused. Every message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused to read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused to write.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder holds no safetensors file.
    #[error("{} holds no safetensors file: give a file, or a folder with model.safetensors or shards and their index", path.display())]
    NoCheckpoint {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds several files and nothing says which belong together.
    #[error("{} holds several safetensors files and no model.safetensors.index.json ({files}): name one file", path.display())]
    Ambiguous {
        /// The folder.
        path: PathBuf,
        /// Their names.
        files: String,
    },
    /// A file ends too early, or goes on after its last tensor.
    #[error("{} has {found} bytes, which is not what its header says: it is truncated or damaged, fetch it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its size.
        found: usize,
    },
    /// A file is not safetensors.
    #[error("{} is not a safetensors file: {reason}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What the reader said.
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
    #[error("{} is already there: give another name, or --force to replace it", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// The output is something else.
    #[error("{} is not {expected}, so --force does not replace it: give another name", path.display())]
    NotReplaceable {
        /// The output.
        path: PathBuf,
        /// What could be replaced.
        expected: &'static str,
    },
    /// The output is the input, or one lies inside the other.
    #[error("the output {} lies in the input, or holds it: write somewhere else", path.display())]
    Overlap {
        /// The output.
        path: PathBuf,
    },
    /// A filter matches no weight.
    #[error("{option} \"{filter}\" matches no weight; two-dimensional weights are: {known}")]
    FilterMatchesNothing {
        /// The option.
        option: &'static str,
        /// Its value.
        filter: String,
        /// Names there are.
        known: String,
    },
    /// The built-in list of names matches nothing.
    #[error(
        "no weight has a name that is known to belong to an MLP: choose with --include; two-dimensional weights are: {known}"
    )]
    NothingKnown {
        /// Names there are.
        known: String,
    },
    /// Everything chosen was taken out again.
    #[error("nothing is left to prune: {reason}")]
    NothingLeft {
        /// What took the weights out.
        reason: String,
    },
    /// A number is out of range.
    #[error("{option} is {found}, but must be {expected}")]
    Range {
        /// The option.
        option: &'static str,
        /// Its value.
        found: f64,
        /// What is allowed.
        expected: &'static str,
    },
    /// An option has no effect without another.
    #[error("{option} is only used with {needs}: add that, or leave {option} out")]
    Unused {
        /// The option.
        option: &'static str,
        /// The other.
        needs: &'static str,
    },
    /// A weight has a data type without arithmetic here.
    #[error(
        "weight \"{name}\" holds {dtype}: only F32, F16 and BF16 can be pruned, so convert it, or leave it out with --exclude"
    )]
    Dtype {
        /// The weight.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// A weight is smaller than one block.
    #[error(
        "weight \"{name}\" is {rows} x {cols}, less than a block of {block}: use a smaller --block, or leave it out with --exclude"
    )]
    BlockTooLarge {
        /// The weight.
        name: String,
        /// Rows on disk.
        rows: usize,
        /// Columns on disk.
        cols: usize,
        /// Side of a block.
        block: usize,
    },
    /// A tensor has the name of a part of a packed weight to be written.
    #[error(
        "the input has a tensor \"{name}\" already: a packed weight would need that name, so leave its weight out with --exclude"
    )]
    NameTaken {
        /// The tensor.
        name: String,
    },
    /// The activations do not fit.
    #[error("activations {}, entry \"{name}\": {reason}", path.display())]
    Activations {
        /// The file.
        path: PathBuf,
        /// The weight.
        name: String,
        /// What is wrong, and what is needed.
        reason: String,
    },
    /// A part of a packed weight is not there.
    #[error(
        "the packed weight \"{name}\" has no \"{name}.{part}\": the file is damaged, write it again"
    )]
    PartMissing {
        /// The weight.
        name: String,
        /// The part.
        part: &'static str,
    },
    /// A part of a packed weight has another type or shape.
    #[error(
        "\"{name}.{part}\" is {found}, but must be {expected}: the file is damaged, write it again"
    )]
    PartShape {
        /// The weight.
        name: String,
        /// The part.
        part: &'static str,
        /// Type and shape found.
        found: String,
        /// Type and shape needed.
        expected: String,
    },
    /// The indices of a packed weight are not a pattern.
    #[error("the packed weight \"{name}\": {source}")]
    Layout {
        /// The weight.
        name: String,
        /// What is wrong.
        source: LayoutError,
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
    /// A weight is there twice.
    #[error("the weight \"{name}\" is there both dense and packed: remove one of them")]
    Both {
        /// The weight.
        name: String,
    },
    /// There is nothing packed to work on.
    #[error("{} holds no block-sparse weight: blast sparsify makes them", path.display())]
    NothingPacked {
        /// The checkpoint.
        path: PathBuf,
    },
    /// A picture could not be drawn.
    #[error(transparent)]
    Draw(#[from] burn_blast_kernels::draw::DrawError),
    /// A block size or a weight's size is not supported.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

impl Error {
    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::Read { path, source }
    }

    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::Write { path, source }
    }
}
