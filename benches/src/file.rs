//! The file that a command writes.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, ensure};
use burn_blast_checkpoint::atomic::AtomicFile;

use crate::record::Line;

/// An [`AtomicFile`] whose errors name its path.
pub struct ResultFile {
    file: AtomicFile,
    path: PathBuf,
}

impl ResultFile {
    /// Creates a temporary file in the folder of `path`.
    ///
    /// # Errors
    /// If `path` exists and `force` is not set, or its folder cannot be written.
    pub fn new(path: &Path, force: bool) -> Result<Self> {
        ensure!(
            force || !path.exists(),
            "{} exists: give another --out, or --force to replace it",
            path.display()
        );
        let file = AtomicFile::new(path, force)
            .with_context(|| format!("cannot write beside {}", path.display()))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn line(&mut self, line: &Line) -> Result<()> {
        let text = serde_json::to_string(line)?;
        self.text(&format!("{text}\n"))
    }

    /// Appends text.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn text(&mut self, text: &str) -> Result<()> {
        let written = self.file.write_all(text.as_bytes());
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Renames the file to its final name.
    ///
    /// # Errors
    /// If that fails.
    pub fn finish(self) -> Result<()> {
        let Self { file, path } = self;
        file.finish().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Keeps the lines written so far under the temporary name, and adds the name to `error`.
    pub fn keep(self, error: Error) -> Error {
        match self.file.keep() {
            Ok(path) => error.context(format!("the results so far are in {}", path.display())),
            Err(_) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use crate::fixtures;
    use crate::record::{Clock, Limit, Peak, Run};

    fn written(run: &Run, path: &Path, force: bool) -> Result<()> {
        let mut output = ResultFile::new(path, force)?;
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
        let results = vec![fixtures::measured(0.9, 3.0), fixtures::measured(0.5, 0.7)];
        Run { machine: fixtures::machine(), peaks, results }
    }

    #[test]
    fn a_run_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        written(&run(), &path, false).unwrap();
        assert_eq!(Run::read(&path).unwrap(), run());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn lines_before_an_error_are_kept_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let mut output = ResultFile::new(&path, false).unwrap();
        output.line(&Line::Machine(fixtures::machine())).unwrap();
        output.line(&Line::Result(fixtures::measured(0.9, 3.0))).unwrap();
        let error = format!("{:#}", output.keep(anyhow::anyhow!("the device is gone")));
        let kept = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        assert!(error.contains(&kept.display().to_string()), "{error}");
        assert!(error.contains("the device is gone"), "{error}");
        assert_eq!(Run::read(&kept).unwrap().results, [fixtures::measured(0.9, 3.0)]);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_is_only_replaced_on_request() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        fs::write(&path, "precious").unwrap();
        let error = written(&run(), &path, false).unwrap_err().to_string();
        assert!(error.contains("--force"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        written(&run(), &path, true).unwrap();
        assert_eq!(Run::read(&path).unwrap(), run());
    }

    #[test]
    fn a_file_without_a_clock_is_read() {
        let mut line = serde_json::to_value(Line::Machine(fixtures::machine())).unwrap();
        line.as_object_mut().unwrap().remove("clock");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        fs::write(&path, line.to_string()).unwrap();
        assert_eq!(Run::read(&path).unwrap().machine.clock, Clock::Wall);
    }
}
