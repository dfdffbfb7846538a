//! Outputs that appear whole or not at all: written beside their place, then renamed.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};

use crate::Error;
use crate::checkpoint::{Source, safetensors_files};

/// A checkpoint being written.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    force: bool,
    staging: Staging,
}

#[derive(Debug)]
enum Staging {
    File(NamedTempFile),
    Folder(TempDir),
}

/// Permissions of a new file before the umask, which decides, not the secrecy of temporary files.
const FILE: u32 = 0o666;

/// Those of a new folder, which must be searchable too.
const FOLDER: u32 = 0o777;

impl Output {
    /// Begins an output of the same kind as the input, a file or a folder.
    ///
    /// # Errors
    /// If it is there and must not be replaced, lies in the input, or cannot be written beside its place.
    pub fn new(source: &Source, path: &Path, force: bool) -> Result<Self, Error> {
        check_apart(source, path)?;
        if path.exists() {
            check_replaceable(source, path, force)?;
        }
        let beside = parent(path);
        let staging = match &source.folder {
            Some(_) => temporary(FOLDER).tempdir_in(beside).map(Staging::Folder),
            None => temporary(FILE).tempfile_in(beside).map(Staging::File),
        };
        let staging = staging.map_err(Error::write(path))?;
        Ok(Self { path: path.to_owned(), force, staging })
    }

    /// Where it will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file of the output. An output that is a file has only the one.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn create(&mut self, name: &str) -> Result<File, Error> {
        let file = match &self.staging {
            Staging::File(file) => file.as_file().try_clone(),
            Staging::Folder(folder) => {
                let path = folder.path().join(name);
                let made = path.parent().map_or(Ok(()), fs::create_dir_all);
                made.and_then(|()| File::create(path))
            }
        };
        file.map_err(Error::write(&self.path))
    }

    /// Puts the output in its place.
    ///
    /// # Errors
    /// If the system refuses, or something came to be there meanwhile that must not be replaced; what was there before
    /// is there still, or again.
    pub fn finish(self) -> Result<(), Error> {
        let path = self.path;
        match self.staging {
            Staging::File(file) => persist(file, &path, self.force),
            Staging::Folder(folder) if !path.exists() => {
                fs::rename(folder.path(), &path).map_err(Error::write(&path))?;
                let _ = folder.keep();
                Ok(())
            }
            Staging::Folder(_) if !self.force => Err(Error::Exists { path }),
            Staging::Folder(folder) => {
                // A folder cannot be renamed onto another, so the old one steps aside first.
                let aside = temporary(FOLDER).tempdir_in(parent(&path));
                let aside = aside.map_err(Error::write(&path))?;
                let old = aside.path().join("old");
                fs::rename(&path, &old).map_err(Error::write(&path))?;
                if let Err(error) = fs::rename(folder.path(), &path) {
                    // Nothing more can be done if this fails too: keep the old folder where it can be found.
                    if fs::rename(&old, &path).is_err() {
                        let _ = aside.keep();
                    }
                    return Err(Error::Write { path, source: error });
                }
                let _ = folder.keep();
                Ok(())
            }
        }
    }
}

/// Writes a small file whole.
///
/// # Errors
/// If it is there and `force` does not allow to replace it, or the system refuses.
pub fn write_file(path: &Path, text: &str, force: bool) -> Result<(), Error> {
    let mut file = temporary(FILE).tempfile_in(parent(path)).map_err(Error::write(path))?;
    file.write_all(text.as_bytes()).map_err(Error::write(path))?;
    persist(file, path, force)
}

fn persist(file: NamedTempFile, path: &Path, force: bool) -> Result<(), Error> {
    let done = match force {
        true => file.persist(path),
        false => file.persist_noclobber(path),
    };
    match done {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(Error::Exists { path: path.to_owned() })
        }
        Err(error) => Err(Error::Write { path: path.to_owned(), source: error.error }),
    }
}

fn temporary(
    #[cfg_attr(not(unix), expect(unused))] mode: u32,
) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    builder.prefix(".blast-");
    builder
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Refuses to write over the input or into it.
fn check_apart(source: &Source, path: &Path) -> Result<(), Error> {
    let input = fs::canonicalize(&source.path).map_err(Error::read(&source.path))?;
    let folder = fs::canonicalize(parent(path)).map_err(Error::write(path))?;
    let output = match fs::canonicalize(path) {
        Ok(output) => output,
        Err(_) => folder.join(path.file_name().unwrap_or_default()),
    };
    let inside = source.folder.is_some() && output.starts_with(&input);
    if inside || output == input || input.starts_with(&output) {
        return Err(Error::Overlap { path: path.to_owned() });
    }
    Ok(())
}

/// Whether `--force` may replace what is there: a file by a file, a checkpoint by a checkpoint. A folder of
/// anything else is more likely a slip of the hand.
fn check_replaceable(source: &Source, path: &Path, force: bool) -> Result<(), Error> {
    if !force {
        return Err(Error::Exists { path: path.to_owned() });
    }
    let fine = match &source.folder {
        None => path.is_file(),
        Some(_) => {
            let empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
            path.is_dir() && (empty() || !safetensors_files(path)?.is_empty())
        }
    };
    let expected = if source.folder.is_some() { "a checkpoint folder" } else { "a file" };
    match fine {
        true => Ok(()),
        false => Err(Error::NotReplaceable { path: path.to_owned(), expected }),
    }
}
