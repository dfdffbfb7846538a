//! A checkpoint: one file, or a folder of files as Hugging Face lays them out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::CheckpointError;
use crate::index::Index;
use crate::layout::Orientation;
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
        match files.len() {
            0 => Err(CheckpointError::NoCheckpoint { path: path.to_owned() }),
            1 => Ok(found(Some(path), files, None)),
            _ => {
                files.sort();
                let names = files.iter().filter_map(|file| file.file_name());
                let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
                Err(CheckpointError::Ambiguous { path: path.to_owned(), files: names.join(", ") })
            }
        }
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
    pub fn shard_of(&self, name: &str) -> Option<&Shard> {
        self.places.get(name).map(|&at| &self.shards[at])
    }

    /// `model_type` of its configuration, such as `llama`.
    pub fn model_type(&self) -> Option<&str> {
        self.model_type.as_deref()
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
        let conv = self.model_type().is_some_and(|kind| CONV1D_MODELS.contains(&kind))
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

/// A part of a name, so that layer 2 comes before layer 10.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamePart {
    /// A number, such as the index of a layer.
    Number(u64),
    /// Anything else.
    Text(String),
}

/// The parts of a name between its dots, to sort by.
pub fn name_parts(name: &str) -> Vec<NamePart> {
    let part = |part: &str| match part.parse() {
        Ok(number) => NamePart::Number(number),
        Err(_) => NamePart::Text(part.to_owned()),
    };
    name.split('.').map(part).collect()
}
