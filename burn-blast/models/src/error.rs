//! What can be wrong with a checkpoint, or with what is asked of a model.

use std::path::PathBuf;

/// Why a checkpoint was not read or written, or a request was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the checkpoint does not exist.
    #[error(
        "there is no {0}: a model is a folder with config.json and model.safetensors, or its parts and \
         model.safetensors.index.json, as Hugging Face publishes it (`hf download NAME --local-dir FOLDER`; in a cache, the \
         folder below snapshots)"
    )]
    MissingFile(PathBuf),
    /// A model is named by a file that is no GGUF.
    #[error("{} is a file: name the folder that it is in, or a GGUF file", .0.display())]
    NoFolder(PathBuf),
    /// The system refused.
    #[error("{path}: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A file or a folder does not hold what it must.
    #[error("{path}: {reason}")]
    Unusable {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A setting of the configuration is not implemented.
    #[error(
        "the configuration asks for {setting} = {found}, which is not implemented: {supported}"
    )]
    Unsupported {
        /// Name of the setting.
        setting: &'static str,
        /// Its value.
        found: String,
        /// What would work.
        supported: String,
    },
    /// Sizes of the configuration contradict each other.
    #[error("the configuration contradicts itself: {0}")]
    Contradiction(String),
    /// The sizes of a compacted model have no place in a configuration.
    #[error(
        "config.json cannot say the sizes of this model: {0}; write it before it is compacted, and compact it \
         when it is loaded"
    )]
    Uneven(String),
    /// The tokenizer cannot be read or cannot handle the text.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// There is no chat template, or it does not take the messages.
    #[error("chat template: {0}")]
    Chat(String),
    /// A token is outside the vocabulary.
    #[error(
        "the tokenizer gives token {token}, but the model knows only those below {vocabulary}: the tokenizer belongs to another model"
    )]
    Token {
        /// The token.
        token: u32,
        /// Tokens of the model.
        vocabulary: usize,
    },
    /// There is nothing to begin with.
    #[error("{0}")]
    TooShort(String),
    /// The text does not fit the model.
    #[error("{found} tokens do not fit: the model was made for {limit} positions")]
    TooLong {
        /// Tokens asked for.
        found: usize,
        /// Positions of the model.
        limit: usize,
    },
    /// A setting of a request is out of range.
    #[error("{setting} is {found}, but must be {expected}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// Its value.
        found: String,
        /// Values that work.
        expected: String,
    },
    /// The program was built without a backend.
    #[error(
        "this build has no {0} backend: add `--features {0}` to cargo's arguments, before the `--`"
    )]
    NotBuilt(&'static str),
    /// The device did not return its results.
    #[error("the device failed: {0}")]
    Device(String),
    /// A result is infinite or not a number.
    #[error(
        "{0} is infinite or not a number, though the weights are finite: compute in --dtype f32, or take another checkpoint"
    )]
    NotFinite(&'static str),
    /// The loss is infinite or not a number after this step.
    #[error("the loss is no longer a number at step {0}: use a lower learning rate")]
    Diverged(usize),
    /// Teacher and student do not fit each other.
    #[error("the teacher has {theirs} {what}, the student {ours}: they must agree")]
    Teacher {
        /// What they differ in.
        what: &'static str,
        /// What the teacher has.
        theirs: usize,
        /// What the student has.
        ours: usize,
    },
    /// A weight has blocks of another size.
    #[error("{name} is block-sparse already, in blocks of {found}, not {asked}: use that size")]
    OtherBlocks {
        /// Name of the weight.
        name: String,
        /// Side of its blocks.
        found: usize,
        /// Side asked for.
        asked: usize,
    },
    /// A layer that is to start sparse is sparse, or has an adapter.
    #[error("{0} is not dense: only a dense model can start sparse")]
    NotDense(String),
    /// An output layer of its own is to lose blocks, but the model has none.
    #[error("the output layer is the embedding, which keeps its blocks: leave the role head out")]
    TiedHead,
    /// The model has adapters where it must have none, or none to merge, or nothing to put one beside.
    #[error("{0}")]
    Adapters(&'static str),
    /// Signals cannot be caught.
    #[cfg(feature = "ctrlc")]
    #[error("the signals that ask to stop cannot be caught: {0}")]
    Signals(String),
    /// A checkpoint of a run cannot be read or written.
    #[error(transparent)]
    Io(#[from] burn_blast::io::IoError),
    /// Pruning was refused.
    #[error(transparent)]
    Blast(#[from] burn_blast::prune::BlastError),
    /// A block size or a shape is not supported.
    #[error(transparent)]
    Pattern(#[from] burn_blast::PatternError),
    /// A layer cannot be changed.
    #[error(transparent)]
    Layer(#[from] burn_blast::module::LayerError),
    /// A weight cannot be corrected.
    #[cfg(feature = "calibrate")]
    #[error(transparent)]
    Calibration(#[from] burn_blast::calibrate::CalibrationError),
    /// A plot cannot be drawn.
    #[error(transparent)]
    Plot(#[from] burn_blast::report::plot::PlotError),
}

impl Error {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        |cause| Self::File { path, cause }
    }

    pub(crate) fn unusable(path: impl Into<PathBuf>, reason: impl ToString) -> Self {
        Self::Unusable { path: path.into(), reason: reason.to_string() }
    }

    /// Checks that a model has as many positions as tokens.
    pub(crate) fn fits(found: usize, limit: usize) -> Result<(), Self> {
        if found > limit { Err(Self::TooLong { found, limit }) } else { Ok(()) }
    }

    /// Checks sizes that must not be 0.
    pub(crate) fn at_least_one(settings: &[(&'static str, usize)]) -> Result<(), Self> {
        match settings.iter().find(|(_, value)| *value == 0) {
            Some((setting, _)) => Err(Self::setting(setting, 0, "at least 1")),
            None => Ok(()),
        }
    }

    /// Checks a number, which must be finite too.
    pub(crate) fn in_range(
        setting: &'static str,
        found: f64,
        fits: bool,
        expected: &str,
    ) -> Result<(), Self> {
        match fits && found.is_finite() {
            true => Ok(()),
            false if !found.is_finite() => Err(Self::setting(setting, found, "a finite number")),
            false => Err(Self::setting(setting, found, expected)),
        }
    }

    pub(crate) fn setting(setting: &'static str, found: impl ToString, expected: &str) -> Self {
        Self::Setting { setting, found: found.to_string(), expected: expected.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::io;

    use burn_blast_checkpoint::CheckpointError;

    use super::*;

    #[test]
    fn a_chain_of_causes_says_nothing_twice() {
        let why = || io::Error::other("the reason");
        let refused: [Error; 5] = [
            Error::file("place")(why()),
            burn_blast::io::IoError::File { path: "place".into(), cause: why() }.into(),
            burn_blast::io::IoError::from(CheckpointError::read("place")(why())).into(),
            burn_blast::io::IoError::from(CheckpointError::write("place")(why())).into(),
            burn_blast::prune::BlastError::Ledger { path: "place".into(), cause: why() }.into(),
        ];
        for error in &refused {
            let (mut chain, mut next) = (error.to_string(), error.source());
            while let Some(cause) = next {
                chain += &format!(": {cause}");
                next = cause.source();
            }
            assert_eq!(chain.matches("the reason").count(), 1, "{chain}");
        }
    }
}
