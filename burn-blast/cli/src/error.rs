//! What can be wrong with a request.

use std::path::PathBuf;

use burn_blast_checkpoint::CheckpointError;
use burn_blast_kernels::PatternError;

/// Why a command was refused. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The checkpoint cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A filter matches no weight.
    #[error("{option} \"{filter}\" matches no weight; two-dimensional weights are: {known}")]
    FilterMatchesNothing { option: &'static str, filter: String, known: String },
    /// The built-in list of names matches nothing.
    #[error(
        "no dense weight has a name that is known to belong to an MLP: choose with --include, or, if the MLPs are block-sparse already, \
         make them dense first (blast densify); two-dimensional weights are: {known}"
    )]
    NothingKnown { known: String },
    /// Everything chosen was taken out again.
    #[error("nothing is left to prune: {reason}")]
    NothingLeft { reason: String },
    /// A number is out of range.
    #[error("{option} is {found}, but must be {expected}")]
    Range { option: &'static str, found: f64, expected: &'static str },
    /// A model that must be dense is not.
    #[error(
        "{} is block-sparse already: blast recover starts from a dense model; fine-tune --keep-pattern --teacher trains this one on",
        path.display()
    )]
    Sparse { path: PathBuf },
    /// A text was given twice.
    #[error("--corpus {} is given twice: leave one out", path.display())]
    Twice { path: PathBuf },
    /// A model cannot have this size.
    #[error(
        "--bytes is {found}, but must be above {least}, which is not in the MLPs, and at most {all}"
    )]
    Size { found: String, least: String, all: String },
    /// An option has no effect without another.
    #[error("{option} is only used with {needs}: add that, or leave {option} out")]
    Unused { option: &'static str, needs: &'static str },
    /// An option has no effect on a command.
    #[error("{option} is for {needs}: leave it out")]
    WithoutEffect { option: &'static str, needs: &'static str },
    /// A weight has a data type without arithmetic here.
    #[error(
        "weight \"{name}\" holds {dtype}: only F32, F16 and BF16 can be pruned, so convert it, or leave it out with --exclude"
    )]
    Dtype { name: String, dtype: String },
    /// A weight is looked up by rows.
    #[error(
        "weight \"{name}\" is a table of embeddings, whose rows are looked up: leave it out with --exclude"
    )]
    Table { name: String },
    /// A weight is smaller than one block.
    #[error(
        "weight \"{name}\" is {rows} x {cols}, less than a block of {block}: use a smaller --block, or leave it out with --exclude"
    )]
    BlockTooLarge { name: String, rows: usize, cols: usize, block: usize },
    /// The numbers of a block are too large to be squared and summed.
    #[error(
        "weight \"{name}\", block {block}: its numbers are too large to rank the block, so leave the weight out with --exclude"
    )]
    Score { name: String, block: usize },
    /// A tensor has the name of a part of a packed weight to be written.
    #[error(
        "the input has a tensor \"{name}\" already: a packed weight would need that name, so leave its weight out with --exclude"
    )]
    NameTaken { name: String },
    /// The activations do not fit.
    #[error("activations {}, entry \"{name}\": {reason}", path.display())]
    Activations { path: PathBuf, name: String, reason: String },
    /// There is nothing packed to work on.
    #[error("{} holds no block-sparse weight: blast sparsify makes them", path.display())]
    NothingPacked { path: PathBuf },
    /// A picture could not be drawn.
    #[error(transparent)]
    Draw(#[from] burn_blast_kernels::draw::DrawError),
    /// The model cannot be used as asked.
    #[error("{}", in_options(.0))]
    Model(#[from] burn_blast_models::Error),
    /// The model cannot be quantised.
    #[error("--int8 or --int4: {0}")]
    Quantize(#[from] burn_blast::module::LayerError),
    /// Standard output was closed, or refused.
    #[error("cannot write the result: {0}")]
    Output(#[from] std::io::Error),
    /// The block size is not supported.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// The message, with settings called by the options that set them.
fn in_options(error: &burn_blast_models::Error) -> String {
    use burn_blast::prune::BlastError;
    use burn_blast_models::Error;

    let (name, found, expected) = match error {
        Error::Blast(BlastError::Config { name: "total_steps", found, .. }) => {
            ("steps", found, "at least --interval, or no block would be removed")
        }
        Error::Blast(BlastError::Config { name, found, expected }) => (*name, found, *expected),
        Error::Setting { setting, found, expected } => (*setting, found, expected.as_str()),
        error => return error.to_string(),
    };
    // Not every setting is a single option.
    let dashes = if name.contains(' ') { "" } else { "--" };
    format!("{dashes}{} is {found}, but must be {expected}", name.replace('_', "-"))
}
