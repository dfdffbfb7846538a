//! Paths in JSON, which has no place for names that are not Unicode: those lose what is not.

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// Writes a path.
pub fn one<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// Writes a path that may be missing.
pub fn any<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(serializer)
}
