//! The files that the commands write.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Error, Result, ensure};
use burn_blast_checkpoint::atomic::AtomicFile;

use crate::record::Line;

/// Creates a temporary file in the folder of `path`, which gets its name when it is finished.
///
/// # Errors
/// If `path` exists and `force` is not set, or its folder cannot be written.
pub fn create(path: &Path, force: bool) -> Result<AtomicFile> {
    let name = path.display();
    ensure!(force || !path.exists(), "{name} exists: give another --out, or --force to replace it");
    AtomicFile::new(path, force).with_context(|| format!("cannot write beside {name}"))
}

/// Writes a whole file.
///
/// # Errors
/// As [`create`], or if the file cannot be written.
pub fn write(path: &Path, force: bool, text: &str) -> Result<()> {
    let mut file = create(path, force)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.finish());
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Appends a line to a record.
///
/// # Errors
/// If the file cannot be written.
pub fn append(file: &mut AtomicFile, line: &Line) -> Result<()> {
    let text = serde_json::to_string(line)?;
    writeln!(file, "{text}").context("cannot write the record")
}

/// Keeps the lines written so far under the temporary name, and adds the name to `error`.
pub fn keep(file: AtomicFile, error: Error) -> Error {
    match file.keep() {
        Ok(path) => error.context(format!("the results so far are in {}", path.display())),
        Err(_) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use crate::fixtures;
    use crate::record::{Limit, Peak, Run};

    fn written(run: &Run, path: &Path, force: bool) -> Result<()> {
        let mut output = create(path, force)?;
        append(&mut output, &Line::Machine(run.machine.clone()))?;
        for peak in &run.peaks {
            append(&mut output, &Line::Peak(peak.clone()))?;
        }
        for result in &run.results {
            append(&mut output, &Line::Result(result.clone()))?;
        }
        Ok(output.finish()?)
    }

    fn run() -> Run {
        let peaks = vec![Peak { limit: Limit::DenseF32, rate: 1e11 }];
        let results = vec![fixtures::measured(0.9, 3.0), fixtures::measured(0.5, 0.7)];
        Run { machine: fixtures::machine(), peaks, results }
    }

    #[test]
    fn lines_before_an_error_are_kept_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let mut output = create(&path, false).unwrap();
        append(&mut output, &Line::Machine(fixtures::machine())).unwrap();
        append(&mut output, &Line::Result(fixtures::measured(0.9, 3.0))).unwrap();
        let error = format!("{:#}", keep(output, anyhow::anyhow!("the device is gone")));
        let kept = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        assert!(error.contains(&kept.display().to_string()), "{error}");
        assert!(error.contains("the device is gone"), "{error}");
        assert_eq!(Run::read(&kept).unwrap().results, [fixtures::measured(0.9, 3.0)]);
        assert!(!path.exists());
    }

    #[test]
    fn a_run_comes_back_as_it_was_written_and_is_only_replaced_on_request() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        fs::write(&path, "precious").unwrap();
        let error = written(&run(), &path, false).unwrap_err().to_string();
        assert!(error.contains("--force"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        written(&run(), &path, true).unwrap();
        assert_eq!(Run::read(&path).unwrap(), run());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }
}
