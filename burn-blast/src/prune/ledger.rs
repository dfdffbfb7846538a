//! The run ledger: one JSON line per layer and update.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Result, Write};
use std::path::{Path, PathBuf};

use burn_blast_checkpoint::atomic::replace_file;
use serde::{Deserialize, Serialize};

use super::BlastError;

/// State of one layer in a [`Snapshot`](super::Snapshot), and one line of the run ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerSnapshot {
    /// Optimizer step of the update that these counts belong to; 0 before the first.
    pub step: usize,
    /// Path of the layer in the model.
    pub name: String,
    /// Whether the layer is exempt from pruning.
    pub dense: bool,
    /// Blocks of its grid.
    pub blocks: usize,
    /// Blocks kept.
    pub kept: usize,
    /// Blocks dropped by the latest update.
    #[serde(alias = "pruned")]
    pub dropped: usize,
    /// Blocks added by the latest update.
    #[serde(alias = "regrown")]
    pub added: usize,
    /// Blocks kept through the latest update.
    pub survivors: usize,
    /// Bytes of the kept values and their indices, at four bytes per element.
    pub bytes: usize,
    /// Bytes of the dense weight, at four bytes per element.
    pub dense_bytes: usize,
}

/// A ledger file.
#[derive(Debug)]
pub(crate) struct Ledger(PathBuf);

impl Ledger {
    /// Checks that the file can be written.
    pub(crate) fn open(path: &Path) -> std::result::Result<Self, BlastError> {
        let ledger = Self(path.to_path_buf());
        ledger.append().map_err(|cause| BlastError::Ledger { path: path.to_path_buf(), cause })?;
        Ok(ledger)
    }

    /// Drops the lines of a step and of all later steps, which a resumed run repeats.
    pub(crate) fn resume_at(&self, step: usize) {
        self.log_failure(self.drop_from(step));
    }

    /// Appends a line. If the disk is full, an error is logged and training goes on.
    pub(crate) fn write(&self, line: &LayerSnapshot) {
        let write = || {
            let mut text = serde_json::to_string(line)?;
            text.push('\n');
            self.append()?.write_all(text.as_bytes())
        };
        self.log_failure(write());
    }

    fn append(&self) -> Result<File> {
        OpenOptions::new().create(true).append(true).open(&self.0)
    }

    fn drop_from(&self, step: usize) -> Result<()> {
        let mut kept = String::new();
        for line in BufReader::new(File::open(&self.0)?).lines() {
            let line = line?;
            // A line truncated by a crash does not parse and is dropped too.
            if serde_json::from_str::<LayerSnapshot>(&line).is_ok_and(|line| line.step < step) {
                kept.push_str(&line);
                kept.push('\n');
            }
        }
        replace_file(&self.0, kept.as_bytes())
    }

    fn log_failure(&self, result: Result<()>) {
        if let Err(error) = result {
            log::error!("the run ledger {} cannot be written: {error}", self.0.display());
        }
    }
}
