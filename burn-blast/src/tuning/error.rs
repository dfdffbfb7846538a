//! What can be wrong with a measurement or its file.

use std::path::PathBuf;

use burn::backend::ExecutionError;

/// Version of the files of tuning tables.
pub const VERSION: u32 = 1;

/// Why there is no tuning table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TuningError {
    /// The file cannot be read.
    #[error("the tuning tables {} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The file holds no tuning tables.
    #[error("{} holds no tuning tables: {source}; write them with `blast-bench tune`", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The file is of another version.
    #[error(
        "the tuning tables are of version {found}, this burn-blast reads version {VERSION}: write them again with `blast-bench tune`"
    )]
    Version {
        /// Version found.
        found: u32,
    },
    /// No table of the file is for the backend.
    #[error("there is no tuning table for backend {backend:?}, only for {known:?}")]
    Backend {
        /// Backend asked for.
        backend: String,
        /// Backends in the file.
        known: Vec<String>,
    },
    /// There is nothing to measure.
    #[error(
        "there is nothing to measure: the model needs a block-sparse weight that is not quantised, and rows a number above 0"
    )]
    NothingToMeasure,
    /// The device failed.
    #[error(transparent)]
    Device(#[from] ExecutionError),
}
