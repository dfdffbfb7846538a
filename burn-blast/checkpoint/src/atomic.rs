//! Files and folders that appear complete or not at all.
//!
//! They are written to `<name>.<random>.part` in the same folder and renamed when complete. The name of a leftover file
//! shows what it was meant to become.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::{Builder, NamedTempFile, TempDir};

/// Permissions of a new file before the umask. The default of temporary files is private to their owner.
const FILE: u32 = 0o666;

/// Permissions of a new folder before the umask.
const FOLDER: u32 = 0o777;

/// What is being written now. Locked while something is created or gets its name, so that nothing is removed half done.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the process at once, without the files and folders that are being written. Threads that would create or rename
/// one wait for the end.
pub fn exit_without_unfinished(code: i32) -> ! {
    let mut unfinished = unfinished();
    for path in unfinished.drain(..) {
        // Nothing is left to be told.
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
    std::process::exit(code)
}

/// Notes that a path is being written, as long as it lives.
#[derive(Debug)]
struct Unfinished(PathBuf);

impl Unfinished {
    /// Creates something at a path of its own.
    fn create<T>(
        make: impl FnOnce() -> io::Result<T>,
        path: impl FnOnce(&T) -> &Path,
    ) -> io::Result<(T, Self)> {
        let mut unfinished = unfinished();
        let made = make()?;
        let path = path(&made).to_owned();
        unfinished.push(path.clone());
        Ok((made, Self(path)))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        unfinished().retain(|path| *path != self.0);
    }
}

/// Writes a file, whether or not there is one already.
///
/// # Errors
/// If the system refuses. A file that was there before is unchanged then.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = AtomicFile::new(path, true)?;
    file.write_all(bytes)?;
    file.finish()
}

/// A file being written.
#[derive(Debug)]
pub struct AtomicFile {
    file: NamedTempFile,
    path: PathBuf,
    replace: bool,
    _unfinished: Unfinished,
}

impl AtomicFile {
    /// Opens a temporary file beside `path`. `replace`: whether an existing file may be replaced.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn new(path: &Path, replace: bool) -> io::Result<Self> {
        let make = || temporary(path, FILE, |builder, folder| builder.tempfile_in(folder));
        let (file, _unfinished) = Unfinished::create(make, NamedTempFile::path)?;
        Ok(Self { file, path: path.to_owned(), replace, _unfinished })
    }

    /// The temporary file.
    pub fn as_file(&self) -> &File {
        self.file.as_file()
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// If the system refuses. The kind is [`io::ErrorKind::AlreadyExists`] if there is a file that must not be
    /// replaced.
    pub fn finish(self) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        let lock = unfinished();
        let done = match self.replace {
            true => self.file.persist(&self.path),
            false => self.file.persist_noclobber(&self.path),
        };
        drop(lock);
        done.map(drop).map_err(|error| error.error)
    }

    /// Keeps what was written so far under its temporary name, which is returned.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn keep(self) -> io::Result<PathBuf> {
        self.file.keep().map(|(_, path)| path).map_err(|error| error.error)
    }
}

impl Write for AtomicFile {
    // By the file itself: `tempfile` would add the temporary name to an error.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_file_mut().flush()
    }
}

/// A folder for files of this process, which goes with it.
#[derive(Debug)]
pub(crate) struct TemporaryFolder {
    folder: TempDir,
    _unfinished: Unfinished,
}

impl TemporaryFolder {
    /// Makes a folder where the system has temporary files.
    pub(crate) fn new() -> io::Result<Self> {
        let make = || Builder::new().prefix("burn-blast.").tempdir();
        let (folder, _unfinished) = Unfinished::create(make, TempDir::path)?;
        Ok(Self { folder, _unfinished })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// A folder being written.
#[derive(Debug)]
pub struct AtomicFolder {
    folder: TempDir,
    path: PathBuf,
    replace: bool,
    _unfinished: Unfinished,
}

impl AtomicFolder {
    /// Makes a temporary folder beside `path`. `replace`: whether an existing folder may be replaced.
    ///
    /// # Errors
    /// If the folder above cannot be written.
    pub fn new(path: &Path, replace: bool) -> io::Result<Self> {
        let make = || temporary(path, FOLDER, |builder, folder| builder.tempdir_in(folder));
        let (folder, _unfinished) = Unfinished::create(make, TempDir::path)?;
        Ok(Self { folder, path: path.to_owned(), replace, _unfinished })
    }

    /// Where the folder is until it is finished.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Opens a new file, with the folders above it. The caller must call [`File::sync_all`] when it is written.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn create(&self, name: &str) -> io::Result<File> {
        let path = self.folder.path().join(name);
        let _lock = unfinished();
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        File::create(path)
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// If the system refuses. The kind is [`io::ErrorKind::AlreadyExists`] if there is something that must not be
    /// replaced. What was there before is there still, or again.
    pub fn finish(self) -> io::Result<()> {
        let Self { folder, path, replace, _unfinished } = self;
        let lock = unfinished();
        if !path.exists() {
            fs::rename(folder.path(), &path)?;
        } else if !replace {
            return Err(io::ErrorKind::AlreadyExists.into());
        } else {
            swap(folder.path(), &path)?;
        }
        drop(lock);
        // Stop deleting the temporary folder on drop, now that it has its final name.
        let _ = folder.keep();
        Ok(())
    }
}

/// Renames a folder onto another. The system does not, so the old one is moved aside first.
fn swap(new: &Path, path: &Path) -> io::Result<()> {
    let aside = temporary(path, FOLDER, |builder, folder| builder.tempdir_in(folder))?;
    let old = aside.path().join("old");
    fs::rename(path, &old)?;
    let Err(error) = fs::rename(new, path) else { return Ok(()) };
    // If this fails too, the old folder is kept where it can be found.
    if fs::rename(&old, path).is_err() {
        let _ = aside.keep();
    }
    Err(error)
}

/// Makes something temporary beside `path`, in the folder that is passed to `make`.
fn temporary<T>(
    path: &Path,
    #[cfg_attr(not(unix), expect(unused))] mode: u32,
    make: impl FnOnce(&Builder<'_, '_>, &Path) -> io::Result<T>,
) -> io::Result<T> {
    let mut prefix = path.file_name().unwrap_or_default().to_owned();
    prefix.push(".");
    let mut builder = Builder::new();
    builder.prefix(&prefix).suffix(".part");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    make(&builder, folder_of(path))
}

/// The folder that holds `path`.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_has_the_permissions_of_any_other() {
        let folder = tempfile::tempdir().unwrap();
        let (path, plain) = (folder.path().join("file"), folder.path().join("plain"));
        fs::write(&path, "before").unwrap();
        fs::write(&plain, "").unwrap();
        replace_file(&path, b"after").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after");
        let permissions = |path| fs::metadata(path).unwrap().permissions();
        assert_eq!(permissions(&path), permissions(&plain));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn a_temporary_file_says_what_it_was_to_become() {
        let folder = tempfile::tempdir().unwrap();
        let file = AtomicFile::new(&folder.path().join("run.jsonl"), false).unwrap();
        let name = file.file.path().file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.starts_with("run.jsonl.") && name.ends_with(".part"), "{name}");
    }

    #[test]
    fn a_folder_is_replaced_only_if_that_is_allowed() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("folder");
        let write = |text: &str, replace| {
            let folder = AtomicFolder::new(&path, replace).unwrap();
            folder.create("below/file").unwrap().write_all(text.as_bytes()).unwrap();
            folder.finish()
        };
        write("first", false).unwrap();
        assert_eq!(write("second", false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let text = || fs::read_to_string(path.join("below/file")).unwrap();
        assert_eq!(text(), "first");
        write("third", true).unwrap();
        assert_eq!(text(), "third");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "no temporary folder is left");
    }
}
