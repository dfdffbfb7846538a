//! Runs on disk: written under a temporary name and renamed, read back with every line checked.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tempfile::NamedTempFile;

use crate::record::{Line, Machine, Measured, Peak, VERSION};

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
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        // A temporary file is its owner's alone unless told otherwise; results are to be shared.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder
            .tempfile_in(folder)
            .with_context(|| format!("cannot write to the folder {}", folder.display()))?;
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
}

/// What one file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Where it was made.
    pub machine: Machine,
    /// Limits measured in it.
    pub peaks: Vec<Peak>,
    /// Problems, in the order they were timed.
    pub results: Vec<Measured>,
}

/// Reads the file of a run.
///
/// # Errors
/// If it cannot be read, is of another version, or a line is not of the form.
pub fn read(path: &Path) -> Result<Run> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is not the file of a run", path.display()))
}

fn parse(text: &str) -> Result<Run> {
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let line = |(at, text): (usize, &str)| {
        serde_json::from_str::<Line>(text).with_context(|| format!("line {}", at + 1))
    };
    let machine = match lines.next().map(line).transpose()? {
        Some(Line::Machine(machine)) => machine,
        _ => bail!("it does not start with the line of a machine"),
    };
    ensure!(
        machine.version == VERSION,
        "it has version {}, this program reads version {VERSION}",
        machine.version
    );
    let mut run = Run { machine, peaks: Vec::new(), results: Vec::new() };
    for numbered in lines {
        match line(numbered)? {
            Line::Peak(peak) => run.peaks.push(peak),
            Line::Result(result) => run.results.push(result),
            Line::Machine(_) => bail!(
                "line {} is of a second machine: give each run a file of its own",
                numbered.0 + 1
            ),
        }
    }
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Clock, Limit};
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
        assert_eq!(parse(&line.to_string()).unwrap().machine.clock, Clock::Wall);
    }

    #[test]
    fn what_is_no_run_is_refused_by_line() {
        let machine = serde_json::to_string(&Line::Machine(sample::machine())).unwrap();
        let old = machine.replace("\"version\":1", "\"version\":7");
        let message = |text: &str| format!("{:#}", parse(text).unwrap_err());
        assert!(message(&old).contains("version 7"));
        assert!(message("").contains("does not start with"));
        assert!(message(&format!("{machine}\n{{}}")).contains("line 2"));
        assert!(
            message(&format!("{machine}\n{machine}")).contains("line 2 is of a second machine")
        );
    }
}
