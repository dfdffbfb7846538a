//! The run ledger: one JSON line per layer and update.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use crate::prune::{BlastError, LayerSnapshot};

/// An open ledger file.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    file: File,
    /// Whether lines of steps that are taken again have been dropped.
    trimmed: bool,
}

impl Ledger {
    pub(crate) fn open(path: &Path) -> Result<Self, BlastError> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|source| BlastError::Ledger { path: path.to_path_buf(), source })?;
        Ok(Self { path: path.to_path_buf(), file, trimmed: false })
    }

    /// Appends a line. Training goes on if the disk is full; the log says so.
    pub(crate) fn write(&mut self, line: &LayerSnapshot) {
        if let Err(error) = self.try_write(line) {
            log::error!("the run ledger {} cannot be written: {error}", self.path.display());
        }
    }

    fn try_write(&mut self, line: &LayerSnapshot) -> std::io::Result<()> {
        if !self.trimmed {
            self.drop_from(line.step)?;
            self.trimmed = true;
        }
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.file.write_all(text.as_bytes())
    }

    /// Drops the lines of a step and all later ones: a resumed run takes them again.
    fn drop_from(&mut self, step: usize) -> std::io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut kept = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
        for line in BufReader::new(File::open(&self.path)?).lines() {
            let line = line?;
            // A line cut off by a crash does not parse, and is dropped too.
            if serde_json::from_str::<LayerSnapshot>(&line).is_ok_and(|line| line.step < step) {
                writeln!(kept, "{line}")?;
            }
        }
        if let Ok(metadata) = fs::metadata(&self.path) {
            fs::set_permissions(kept.path(), metadata.permissions())?;
        }
        kept.persist(&self.path).map_err(|error| error.error)?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        Ok(())
    }
}
