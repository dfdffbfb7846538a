//! A checkpoint being written, a file or a folder as the one it is made from.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::CheckpointError;
use crate::atomic::{AtomicFile, AtomicFolder, folder_of};
use crate::checkpoint::{Source, safetensors_files};

/// A checkpoint being written. It appears complete or not at all.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    staging: Staging,
}

#[derive(Debug)]
enum Staging {
    File(AtomicFile),
    Folder(AtomicFolder),
}

impl Output {
    /// Begins an output of the same kind as the input, a file or a folder.
    ///
    /// # Errors
    /// If it exists and must not be replaced, overlaps the input, or cannot be written beside its place.
    pub fn new(source: &Source, path: &Path, force: bool) -> Result<Self, CheckpointError> {
        check_output(Some(&source.path), source.folder.is_some(), path, force)?;
        let staging = match &source.folder {
            Some(_) => AtomicFolder::new(path, force).map(Staging::Folder),
            None => AtomicFile::new(path, force).map(Staging::File),
        };
        let staging = staging.map_err(CheckpointError::write(path))?;
        Ok(Self { path: path.to_owned(), staging })
    }

    /// Where it will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file of the output. An output that is a file has only the one.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn create(&mut self, name: &str) -> Result<File, CheckpointError> {
        let file = match &self.staging {
            Staging::File(file) => file.as_file().try_clone(),
            Staging::Folder(folder) => folder.create(name),
        };
        file.map_err(CheckpointError::write(&self.path))
    }

    /// Puts the output in its place.
    ///
    /// # Errors
    /// If the system refuses, or something that must not be replaced has appeared there meanwhile. What was there
    /// before is there still, or again.
    pub fn finish(self) -> Result<(), CheckpointError> {
        let done = match self.staging {
            Staging::File(file) => file.finish(),
            Staging::Folder(folder) => folder.finish(),
        };
        done.map_err(CheckpointError::write(self.path))
    }
}

/// Checks before any work is done that an output, a folder or a file, can be written: it does not overlap the input, if
/// there is one, and nothing is there that must stay. `force` replaces a file by a file and a checkpoint by a folder; a
/// folder of anything other than a checkpoint is more likely a mistake.
///
/// # Errors
/// If it overlaps the input or must not be replaced.
pub fn check_output(
    input: Option<&Path>,
    is_folder: bool,
    path: &Path,
    force: bool,
) -> Result<(), CheckpointError> {
    if let Some(input) = input {
        check_apart(input, path)?;
    }
    if !path.exists() {
        return Ok(());
    }
    if !force {
        return Err(CheckpointError::Exists { path: path.to_owned() });
    }
    let empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    let (fine, expected) = match is_folder {
        true => {
            let fine = path.is_dir() && (empty() || !safetensors_files(path)?.is_empty());
            (fine, "a checkpoint folder")
        }
        false => (path.is_file(), "a file"),
    };
    match fine {
        true => Ok(()),
        false => Err(CheckpointError::NotReplaceable { path: path.to_owned(), expected }),
    }
}

/// Refuses to write over the input or into it.
fn check_apart(input: &Path, path: &Path) -> Result<(), CheckpointError> {
    let input = fs::canonicalize(input).map_err(CheckpointError::read(input))?;
    let folder = fs::canonicalize(folder_of(path)).map_err(CheckpointError::write(path))?;
    let output = match fs::canonicalize(path) {
        Ok(output) => output,
        Err(_) => folder.join(path.file_name().unwrap_or_default()),
    };
    let inside = input.is_dir() && output.starts_with(&input);
    if inside || output == input || input.starts_with(&output) {
        return Err(CheckpointError::Overlap { path: path.to_owned() });
    }
    Ok(())
}
