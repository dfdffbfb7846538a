//! A checkpoint: one file, or a folder of files as Hugging Face lays them out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::CheckpointError;
use crate::dense::Orientation;
use crate::packed::FileMetadata;
use crate::shard::{Shard, TensorView};

/// Where a checkpoint's files are, before any of them is opened.
#[derive(Debug)]
pub struct Source {
    /// What was asked for.
    pub path: PathBuf,
    /// The folder, if that is what was asked for.
    pub folder: Option<PathBuf>,
    /// The files with tensors.
    pub files: Vec<PathBuf>,
    /// The index, if there are shards.
    pub index: Option<Index>,
}

/// An opened checkpoint: every tensor by name.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where it is.
    pub source: Source,
    /// Its files.
    pub shards: Vec<Shard>,
    places: BTreeMap<String, usize>,
    model_type: Option<String>,
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Configurations whose models store some weights `[d_input, d_output]`.
const CONV1D_MODELS: [&str; 4] = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer"];

/// Layers of these models that are `Conv1D`.
const CONV1D_LAYERS: [&str; 4] = ["c_attn", "c_proj", "c_fc", "q_attn"];

impl Source {
    /// Finds the files of a checkpoint. In a folder these are, whichever is found first: `model.safetensors`, what
    /// `model.safetensors.index.json` names, or the only safetensors file.
    ///
    /// # Errors
    /// If there is none, or it is not clear which.
    pub fn find(path: &Path) -> Result<Self, CheckpointError> {
        let found = |folder: Option<&Path>, files, index| Self {
            path: path.to_owned(),
            folder: folder.map(Path::to_owned),
            files,
            index,
        };
        if !fs::metadata(path).map_err(CheckpointError::read(path))?.is_dir() {
            return Ok(found(None, vec![path.to_owned()], None));
        }
        if path.join(SINGLE).is_file() {
            return Ok(found(Some(path), vec![path.join(SINGLE)], None));
        }
        if path.join(INDEX).is_file() {
            let index = Index::open(&path.join(INDEX))?;
            let files = index.files().into_iter().map(|file| path.join(file)).collect();
            return Ok(found(Some(path), files, Some(index)));
        }
        let mut files = safetensors_files(path)?;
        files.sort();
        let names = files.iter().filter_map(|file| file.file_name());
        let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
        let reason = match files.len() {
            0 if path.join("snapshots").is_dir() => {
                "is the root of a model in a cache: give the folder of a version, below snapshots"
                    .to_string()
            }
            0 => "holds no safetensors file: give a file, or a folder with model.safetensors or shards and their index"
                .to_string(),
            1 => return Ok(found(Some(path), files, None)),
            _ => {
                let names = names.join(", ");
                format!("holds several safetensors files and no {INDEX} ({names}): name one file")
            }
        };
        Err(CheckpointError::NoCheckpoint { path: path.to_owned(), reason })
    }

    /// `model_type` of the `config.json` beside the files, if there is one.
    fn model_type(&self) -> Option<String> {
        let folder = self.folder.as_deref().or(self.path.parent())?;
        let text = fs::read_to_string(folder.join("config.json")).ok()?;
        let config: Value = serde_json::from_str(&text).ok()?;
        config.get("model_type")?.as_str().map(str::to_owned)
    }
}

impl Checkpoint {
    /// Opens every file of a checkpoint and checks their headers and the index.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the index contradicts the files.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let source = Source::find(path.as_ref())?;
        let shards: Result<Vec<_>, _> = source.files.iter().map(|file| Shard::open(file)).collect();
        let (checkpoint, problems) = Self::of(source, shards?);
        match problems.into_iter().next() {
            Some(problem) => Err(problem),
            None => Ok(checkpoint),
        }
    }

    /// A checkpoint of opened files, and everything in which they contradict each other.
    pub fn of(source: Source, shards: Vec<Shard>) -> (Self, Vec<CheckpointError>) {
        let mut problems = match &source.index {
            Some(index) => index.problems(&shards),
            None => Vec::new(),
        };
        let mut places = BTreeMap::new();
        for (at, shard) in shards.iter().enumerate() {
            for (name, _) in shard.tensors() {
                if let Some(first) = places.insert(name.to_owned(), at) {
                    let (first, second) = (shards[first].file_name(), shard.file_name());
                    problems.push(CheckpointError::Duplicate {
                        name: name.to_owned(),
                        first,
                        second,
                    });
                }
            }
        }
        let model_type = source.model_type();
        (Self { source, shards, places, model_type }, problems)
    }

    /// Names of all tensors, in the order of their layers.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.places.keys().map(String::as_str).collect();
        names.sort_by_cached_key(|name| name_parts(name));
        names
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.shards[*self.places.get(name)?].tensor(name)
    }

    /// The file that holds a tensor.
    pub(crate) fn shard_of(&self, name: &str) -> Option<&Shard> {
        self.places.get(name).map(|&at| &self.shards[at])
    }

    /// How a dense weight of this name is stored: `[d_input, d_output]` by files of burn-blast and by the `Conv1D` of
    /// GPT-2, otherwise `[d_output, d_input]`.
    ///
    /// # Errors
    /// If the file's metadata cannot be read.
    pub fn orientation(&self, name: &str) -> Result<Orientation, CheckpointError> {
        let metadata = self.shard_of(name).map_or(Ok(None), FileMetadata::read)?;
        let burn = metadata.is_some_and(|metadata| metadata.out_in.is_none());
        let layer = name.strip_suffix(".weight").and_then(|name| name.rsplit('.').next());
        let conv = self.model_type.as_deref().is_some_and(|kind| CONV1D_MODELS.contains(&kind))
            && layer.is_some_and(|layer| CONV1D_LAYERS.contains(&layer));
        Ok(if burn || conv { Orientation::InOut } else { Orientation::OutIn })
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        let tensors = self.shards.iter().flat_map(Shard::tensors);
        tensors.map(|(_, tensor)| tensor.bytes().len() as u64).sum()
    }
}

/// Safetensors files of a folder.
pub(crate) fn safetensors_files(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(CheckpointError::read(folder))? {
        let path = entry.map_err(CheckpointError::read(folder))?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") && path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

/// The parts of a name between its dots, to sort by: numbers before texts, so that layer 2 comes before layer 10.
pub fn name_parts(name: &str) -> Vec<Result<u64, &str>> {
    name.split('.').map(|part| part.parse().map_err(|_| part)).collect()
}

/// Which file of a sharded checkpoint holds which tensor: `model.safetensors.index.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Index {
    #[serde(skip)]
    path: PathBuf,
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
        let index: Self = serde_json::from_str(&text)
            .map_err(|error| refuse(format!("is not an index of safetensors files: {error}")))?;
        if index.weight_map.is_empty() {
            return Err(refuse("names no tensor: fetch it again".to_string()));
        }
        for file in index.weight_map.values() {
            let mut parts = Path::new(file).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                return Err(refuse(format!(
                    "names the file \"{file}\", which is not beside it: use plain file names"
                )));
            }
        }
        Ok(Self { path: path.to_owned(), ..index })
    }

    /// The last part of its path.
    pub fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The files it names, each once.
    pub fn files(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }

    /// Where the files contradict it. Files that could not be opened are left out of `shards`.
    pub fn problems(&self, shards: &[Shard]) -> Vec<CheckpointError> {
        let problem = |reason| CheckpointError::Index { path: self.path.clone(), reason };
        let mut problems = Vec::new();
        let map = &self.weight_map;
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
        match self.metadata.get(TOTAL).and_then(Value::as_u64) {
            Some(total) if total != bytes => {
                let reason = format!("says {TOTAL} {total}, but the tensors have {bytes} bytes");
                Err(CheckpointError::Index { path: self.path.clone(), reason })
            }
            _ => Ok(()),
        }
    }

    /// The text of an index of other tensors, with the other metadata as it is here.
    pub fn rewritten(&self, weight_map: BTreeMap<String, String>, bytes: u64) -> String {
        let mut metadata = self.metadata.clone();
        metadata.insert(TOTAL.to_string(), bytes.into());
        let index = Self { path: self.path.clone(), metadata, weight_map };
        let text = serde_json::to_string_pretty(&index).expect("strings and numbers only");
        text + "\n"
    }
}
