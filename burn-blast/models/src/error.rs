//! What can be wrong with a checkpoint, or with what is asked of a model.

use std::path::PathBuf;

use crate::families::MODEL_TYPES;

/// Why a checkpoint was not read or written, or a request was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the checkpoint does not exist.
    #[error(
        "there is no {path}: a model is a folder with config.json and model.safetensors, or its parts and \
         model.safetensors.index.json, as Hugging Face publishes it"
    )]
    MissingFile {
        /// The file looked for.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder to write exists.
    #[error("{path} exists already: choose another folder, or remove it first")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// A JSON file does not hold what it must.
    #[error("{path}: {reason}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A setting of the configuration is missing or of another type.
    #[error("config.json: {reason}")]
    Settings {
        /// What is wrong.
        reason: String,
    },
    /// The architecture is not known.
    #[error("model_type is \"{found}\", but only {MODEL_TYPES} can be loaded")]
    ModelType {
        /// What the configuration says.
        found: String,
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
        supported: &'static str,
    },
    /// Sizes of the configuration contradict each other.
    #[error("the configuration contradicts itself: {reason}")]
    Contradiction {
        /// Which sizes, and why.
        reason: String,
    },
    /// The sizes of a compacted model have no place in a configuration.
    #[error(
        "config.json cannot say the sizes of this model: {reason}; write it before it is compacted, and compact it \
         when it is loaded"
    )]
    Uneven {
        /// Which sizes, and why.
        reason: String,
    },
    /// The tokenizer cannot be read or cannot handle the text.
    #[error("tokenizer: {reason}")]
    Tokenizer {
        /// What it said.
        reason: String,
    },
    /// There is no tokenizer, and tokens cannot be bytes.
    #[error(
        "there is no tokenizer.json, and {vocabulary} tokens are too few for bytes: put the tokenizer of the model \
         into its folder"
    )]
    NoTokenizer {
        /// Tokens of the model.
        vocabulary: usize,
    },
    /// A token is outside the vocabulary.
    #[error(
        "the tokenizer gives token {token}, but the model knows {vocabulary}: the tokenizer belongs to another model"
    )]
    Token {
        /// The token.
        token: u32,
        /// Tokens of the model.
        vocabulary: usize,
    },
    /// There is nothing to begin with.
    #[error("{what}")]
    TooShort {
        /// What is too short, and how long it must be.
        what: String,
    },
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
    /// The device did not return its results.
    #[error("the device failed: {reason}")]
    Device {
        /// What it said.
        reason: String,
    },
    /// A text to train or calibrate on cannot be used.
    #[error("the corpus {} {reason}", path.display())]
    Corpus {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A run cannot be started or resumed.
    #[error("{} {reason}", path.display())]
    Run {
        /// Its folder.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The loss is infinite or not a number.
    #[error("the loss is no longer a number at step {step}: use a lower learning rate")]
    Diverged {
        /// Optimizer steps done.
        step: usize,
    },
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
    /// There is nothing to put an adapter beside.
    #[error(
        "no MLP weight of the model is block-sparse: adapters are trained beside block-sparse weights, so sparsify the \
         model first"
    )]
    NothingToAdapt,
    /// The model has adapters, whose weights are frozen.
    #[error("the model has adapters already: merge them first")]
    Adapted,
    /// The model has no adapters.
    #[error("the model has no adapters: there is nothing to merge")]
    NothingToMerge,
    /// Ctrl-C cannot be caught.
    #[cfg(feature = "ctrlc")]
    #[error("Ctrl-C cannot be caught: {0}")]
    CtrlC(#[from] ctrlc::Error),
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
        |source| Self::File { path, source }
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
            false => Err(Self::setting(setting, found, expected)),
        }
    }

    pub(crate) fn setting(setting: &'static str, found: impl ToString, expected: &str) -> Self {
        Self::Setting { setting, found: found.to_string(), expected: expected.to_string() }
    }
}
