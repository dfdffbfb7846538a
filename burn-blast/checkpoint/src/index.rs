//! The index of a sharded checkpoint, `model.safetensors.index.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::CheckpointError;
use crate::shard::Shard;

/// Which file holds which tensor.
#[derive(Debug, Clone)]
pub struct Index {
    path: PathBuf,
    content: Content,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Content {
    #[serde(default)]
    metadata: Map<String, Value>,
    weight_map: BTreeMap<String, String>,
}

const TOTAL: &str = "total_size";

impl Index {
    /// Reads an index.
    ///
    /// # Errors
    /// If it cannot be read, or names files outside its folder.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let refuse = |reason| CheckpointError::Index { path: path.to_owned(), reason };
        let text = fs::read_to_string(path).map_err(CheckpointError::read(path))?;
        let content: Content = serde_json::from_str(&text)
            .map_err(|error| refuse(format!("is not an index of safetensors files: {error}")))?;
        if content.weight_map.is_empty() {
            return Err(refuse("names no tensor: fetch it again".to_string()));
        }
        for file in content.weight_map.values() {
            let mut parts = Path::new(file).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                return Err(refuse(format!(
                    "names the file \"{file}\", which is not beside it: use plain file names"
                )));
            }
        }
        Ok(Self { path: path.to_owned(), content })
    }

    /// The last part of its path.
    pub fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The files it names, each once.
    pub fn files(&self) -> BTreeSet<&str> {
        self.content.weight_map.values().map(String::as_str).collect()
    }

    /// Where the files contradict it. Files that could not be opened are left out of `shards`.
    pub fn problems(&self, shards: &[Shard]) -> Vec<CheckpointError> {
        let problem = |reason| CheckpointError::Index { path: self.path.clone(), reason };
        let mut problems = Vec::new();
        let map = &self.content.weight_map;
        for shard in shards {
            let file = shard.file_name();
            let listed = map.iter().filter(|(_, listed)| **listed == file);
            for (name, _) in listed.filter(|(name, _)| shard.tensor(name).is_none()) {
                problems.push(problem(format!(
                    "says that {file} holds \"{name}\", which it does not: fetch both again"
                )));
            }
            for (name, _) in shard.tensors().filter(|(name, _)| map.get(*name) != Some(&file)) {
                problems.push(problem(format!(
                    "does not say that {file} holds \"{name}\": fetch both again"
                )));
            }
        }
        problems
    }

    /// Checks the recorded number of bytes, if there is one, against the bytes of all tensors.
    ///
    /// # Errors
    /// If they differ.
    pub fn check_total(&self, bytes: u64) -> Result<(), CheckpointError> {
        match self.content.metadata.get(TOTAL).and_then(Value::as_u64) {
            Some(total) if total != bytes => {
                let reason = format!("says {TOTAL} {total}, but the tensors have {bytes} bytes");
                Err(CheckpointError::Index { path: self.path.clone(), reason })
            }
            _ => Ok(()),
        }
    }

    /// The text of an index of other tensors, with the other metadata as it is here.
    pub fn rewritten(&self, weight_map: BTreeMap<String, String>, bytes: u64) -> String {
        let mut metadata = self.content.metadata.clone();
        metadata.insert(TOTAL.to_string(), bytes.into());
        let content = Content { metadata, weight_map };
        let text = serde_json::to_string_pretty(&content).expect("strings and numbers only");
        text + "\n"
    }
}
