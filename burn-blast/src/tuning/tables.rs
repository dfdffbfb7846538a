//! Files of tuning tables.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{TuningError, VERSION};
use crate::break_even::TuningTable;

/// Tuning tables of every device that was measured, as a file holds them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuningTables {
    /// [`VERSION`].
    pub version: u32,
    /// One for each device, backend and set of features.
    pub devices: Vec<TuningTable>,
}

impl TuningTables {
    /// Reads a file that `blast-bench tune` wrote.
    ///
    /// # Errors
    /// If it cannot be read, holds no tuning tables, or is of another version.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, TuningError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|source| TuningError::Read { path: path.into(), source })?;
        let tables: Self = serde_json::from_str(&text)
            .map_err(|source| TuningError::Format { path: path.into(), source })?;
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
        let mut all = TuningTables { version: 9, devices: vec![table.clone()] };
        std::fs::write(&path, serde_json::to_string(&all).unwrap()).unwrap();
        assert!(message(&path).contains("version 9"));
        all.version = VERSION;
        std::fs::write(&path, serde_json::to_string(&all).unwrap()).unwrap();
        let loaded = TuningTables::load(&path).unwrap();
        assert_eq!(loaded.for_backend("flex").unwrap(), &table);
        let error = loaded.for_backend("cuda").unwrap_err().to_string();
        assert!(error.contains("\"cuda\"") && error.contains("\"flex\""), "{error}");
    }
}
