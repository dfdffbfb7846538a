//! Files that appear whole or not at all.

use std::io::{self, Write};
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// A new file in the folder of `path`, to be renamed to it when it is whole. Its name begins with that of `path` and ends
/// in `.part`, so that whoever finds one after a crash knows what it was to be.
///
/// # Errors
/// If the folder cannot be written.
pub fn temporary_beside(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut prefix = path.file_name().unwrap_or_default().to_owned();
    prefix.push(".");
    let mut builder = Builder::new();
    builder.prefix(&prefix).suffix(".part");
    // As for any new file: the umask decides, not the secrecy of temporary files.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder.unwrap_or(Path::new(".")))
}

/// Writes a file whole: under a temporary name beside it, then renamed.
///
/// # Errors
/// If the system refuses; what was there before is there still.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = temporary_beside(path)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_replaced_and_readable_like_any_other() {
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
    fn a_temporary_file_says_what_it_was_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let file = temporary_beside(&folder.path().join("run.jsonl")).unwrap();
        let name = file.path().file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.starts_with("run.jsonl.") && name.ends_with(".part"), "{name}");
    }
}
