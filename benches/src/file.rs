//! Files written under a temporary name and renamed.
//!
//! The temporary name is that of the file with letters and `.part` after it, so that the lines of a run that was killed are
//! found beside the place of its file.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, ensure};
use example_backend::temporary_beside;
use tempfile::NamedTempFile;

use crate::record::Line;

/// A file that appears whole or not at all.
pub struct Output {
    file: NamedTempFile,
    path: PathBuf,
    force: bool,
}

impl Output {
    /// Opens a temporary file beside `path`.
    ///
    /// # Errors
    /// If `path` exists and `force` does not allow to replace it, or its folder cannot be written.
    pub fn new(path: &Path, force: bool) -> Result<Self> {
        ensure!(
            force || !path.exists(),
            "{} is already there: give another --out, or --force to replace it",
            path.display()
        );
        let file = temporary_beside(path)
            .with_context(|| format!("cannot write beside {}", path.display()))?;
        Ok(Self { file, path: path.to_owned(), force })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn line(&mut self, line: &Line) -> Result<()> {
        let text = serde_json::to_string(line)?;
        self.text(&format!("{text}\n"))
    }

    /// Adds text.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn text(&mut self, text: &str) -> Result<()> {
        let written = self.file.write_all(text.as_bytes());
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// If that cannot be done.
    pub fn finish(self) -> Result<()> {
        let done = match self.force {
            true => self.file.persist(&self.path),
            false => self.file.persist_noclobber(&self.path),
        };
        done.map(drop).with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Leaves what was written so far under its temporary name, and gives `error` the name.
    pub fn keep(self, error: Error) -> Error {
        match self.file.keep() {
            Ok((_, path)) => error.context(format!("what was timed is in {}", path.display())),
            Err(_) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use crate::record::{Clock, Limit, Peak};
    use crate::report::{Run, read};
    use crate::sample;

    fn written(run: &Run, path: &Path, force: bool) -> Result<()> {
        let mut output = Output::new(path, force)?;
        output.line(&Line::Machine(run.machine.clone()))?;
        for peak in &run.peaks {
            output.line(&Line::Peak(peak.clone()))?;
        }
        for result in &run.results {
            output.line(&Line::Result(result.clone()))?;
        }
        output.finish()
    }

    fn run() -> Run {
        let peaks = vec![Peak { limit: Limit::DenseF32, rate: 1e11 }];
        let results = vec![sample::measured(0.9, 3.0), sample::measured(0.5, 0.7)];
        Run { machine: sample::machine(), peaks, results }
    }

    #[test]
    fn a_run_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        written(&run(), &path, false).unwrap();
        assert_eq!(read(&path).unwrap(), run());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn what_was_written_before_an_error_is_kept_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let mut output = Output::new(&path, false).unwrap();
        output.line(&Line::Machine(sample::machine())).unwrap();
        output.line(&Line::Result(sample::measured(0.9, 3.0))).unwrap();
        let error = format!("{:#}", output.keep(anyhow::anyhow!("the device is gone")));
        let kept = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        assert_eq!(error, format!("what was timed is in {}: the device is gone", kept.display()));
        assert_eq!(read(&kept).unwrap().results, [sample::measured(0.9, 3.0)]);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_is_not_replaced_unless_that_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        fs::write(&path, "precious").unwrap();
        let error = written(&run(), &path, false).unwrap_err().to_string();
        assert!(error.contains("--force"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        written(&run(), &path, true).unwrap();
        assert_eq!(read(&path).unwrap(), run());
    }

    #[test]
    fn a_file_of_before_the_clock_was_recorded_is_read() {
        let mut line = serde_json::to_value(Line::Machine(sample::machine())).unwrap();
        line.as_object_mut().unwrap().remove("clock");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        fs::write(&path, line.to_string()).unwrap();
        assert_eq!(read(&path).unwrap().machine.clock, Clock::Wall);
    }
}
