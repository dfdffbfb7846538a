//! Files of tuning tables.

use std::path::{Path, PathBuf};

use burn::backend::ExecutionError;
use burn_blast_checkpoint::atomic::replace_file;
use serde::{Deserialize, Serialize};

use crate::break_even::TuningTable;

/// Version of the files of tuning tables.
const VERSION: u32 = 1;

/// Why there is no tuning table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TuningError {
    /// The file cannot be read or written.
    #[error("the tuning tables {} cannot be read or written: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        cause: std::io::Error,
    },
    /// The file holds no tuning tables.
    #[error("{} holds no tuning tables: {cause}; write them with `blast-bench tune`", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: serde_json::Error,
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

/// Tuning tables of every device that was measured, as a file holds them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuningTables {
    version: u32,
    /// One for each device, backend and set of features.
    pub devices: Vec<TuningTable>,
}

impl TuningTables {
    /// Tables of these devices.
    pub fn new(devices: Vec<TuningTable>) -> Self {
        Self { version: VERSION, devices }
    }

    /// Writes a file, in place of one that exists.
    ///
    /// # Errors
    /// If it cannot be written. A file that was there before is unchanged then.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), TuningError> {
        let path = path.as_ref();
        let text = serde_json::to_string_pretty(self).expect("numbers and strings only");
        replace_file(path, text.as_bytes())
            .map_err(|cause| TuningError::File { path: path.into(), cause })
    }

    /// Reads a file that [`save`](Self::save) or `blast-bench tune` wrote.
    ///
    /// # Errors
    /// If it cannot be read, holds no tuning tables, or is of another version.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, TuningError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|cause| TuningError::File { path: path.into(), cause })?;
        let tables: Self = serde_json::from_str(&text)
            .map_err(|cause| TuningError::Format { path: path.into(), cause })?;
        match tables.version {
            VERSION => Ok(tables),
            found => Err(TuningError::Version { found }),
        }
    }

    /// The first table for a backend.
    ///
    /// # Errors
    /// If there is none.
    pub fn for_backend(&self, backend: &str) -> Result<&TuningTable, TuningError> {
        self.devices.iter().find(|table| table.backend == backend).ok_or_else(|| {
            TuningError::Backend {
                backend: backend.to_owned(),
                known: self.devices.iter().map(|table| table.backend.clone()).collect(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_says_what_to_do() {
        let table = TuningTable {
            device: "a processor".to_owned(),
            backend: "flex".to_owned(),
            features: Vec::new(),
            entries: Vec::new(),
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tuning.json");
        let message = |path: &Path| TuningTables::load(path).unwrap_err().to_string();
        assert!(message(&path).contains("cannot be read"));
        std::fs::write(&path, "{").unwrap();
        assert!(message(&path).contains("write them with `blast-bench tune`"));
        let all = TuningTables { version: 9, devices: vec![table.clone()] };
        all.save(&path).unwrap();
        assert!(message(&path).contains("version 9"));
        TuningTables::new(vec![table.clone()]).save(&path).unwrap();
        let loaded = TuningTables::load(&path).unwrap();
        assert_eq!(loaded.for_backend("flex").unwrap(), &table);
        let error = loaded.for_backend("cuda").unwrap_err().to_string();
        assert!(error.contains("\"cuda\"") && error.contains("\"flex\""), "{error}");
    }
}
