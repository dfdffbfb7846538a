//! A checkpoint: one file, or a folder of files as Hugging Face lays them out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use burn_blast_kernels::pattern::fnv1a;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::dense::Orientation;
use crate::gguf::{self, Unpacked};
use crate::packed::FileMetadata;
use crate::shard::{Shard, TensorView};
use crate::{CheckpointError, json};

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
    /// What a GGUF file was unpacked to: the folder.
    pub unpacked: Option<Unpacked>,
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

pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Configurations whose models store some weights `[d_input, d_output]`.
const CONV1D_MODELS: [&str; 4] = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer"];

/// Layers of these models that are `Conv1D`.
const CONV1D_LAYERS: [&str; 4] = ["c_attn", "c_proj", "c_fc", "q_attn"];

impl Source {
    /// Finds the files of a checkpoint. In a folder these are, whichever is found first: `model.safetensors`, what
    /// `model.safetensors.index.json` names, or the only safetensors file. A GGUF file is unpacked to a temporary folder.
    ///
    /// # Errors
    /// If there is none, or it is not clear which.
    pub fn find(path: &Path) -> Result<Self, CheckpointError> {
        let found = |folder: Option<&Path>, files, index| Self {
            path: path.to_owned(),
            folder: folder.map(Path::to_owned),
            files,
            index,
            unpacked: None,
        };
        if gguf::is_gguf(path) {
            let unpacked = gguf::unpack(path)?;
            let folder = unpacked.path().to_owned();
            let source = found(Some(&folder), vec![folder.join(SINGLE)], None);
            return Ok(Self { unpacked: Some(unpacked), ..source });
        }
        if !fs::metadata(path).map_err(CheckpointError::open(path))?.is_dir() {
            return Ok(found(None, vec![path.to_owned()], None));
        }
        // A link that leads nowhere is told when it is opened.
        let has = |name: &str| {
            let file = path.join(name);
            file.is_file() || (!file.exists() && file.symlink_metadata().is_ok())
        };
        if has(SINGLE) {
            return Ok(found(Some(path), vec![path.join(SINGLE)], None));
        }
        if has(INDEX) {
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

    /// Opens one of the files.
    ///
    /// # Errors
    /// As [`Shard::open`].
    pub fn open(&self, file: &Path) -> Result<Shard, CheckpointError> {
        let mut shard = Shard::open(file)?;
        if let Some(below) = self.folder.as_ref().and_then(|folder| file.strip_prefix(folder).ok())
        {
            shard.name = plain_name(below).unwrap_or(shard.name);
        }
        Ok(shard)
    }

    /// `model_type` of the `config.json` beside the files, if there is one.
    fn model_type(&self) -> Option<String> {
        let folder = self.folder.as_deref().or(self.path.parent())?;
        let text = fs::read_to_string(folder.join("config.json")).ok()?;
        let config = json::parse(&text).ok()?;
        config.get("model_type")?.as_str().map(str::to_owned)
    }
}

impl Checkpoint {
    /// Opens every file of a checkpoint and checks their headers. The files count: where the index says something else of
    /// them, a warning is logged.
    ///
    /// # Errors
    /// If a file is missing or damaged, or two hold a tensor of the same name.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let source = Source::find(path.as_ref())?;
        let shards: Result<Vec<_>, _> = source.files.iter().map(|file| source.open(file)).collect();
        let (checkpoint, problems) = Self::of(source, shards?);
        for problem in problems {
            match problem {
                CheckpointError::Index { .. } => log::warn!("{problem}"),
                _ => return Err(problem),
            }
        }
        Ok(checkpoint)
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
                    problems.push(CheckpointError::Duplicate {
                        name: name.to_owned(),
                        first: shards[first].name.clone(),
                        second: shard.name.clone(),
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

    /// A number that tells checkpoints apart: of all names, types and shapes, and of some bytes of every tensor, so that a
    /// large one takes no time.
    pub fn fingerprint(&self) -> u64 {
        const SAMPLE: usize = 4096;
        let parts = self.names().into_iter().flat_map(|name| {
            let tensor = self.tensor(name).expect("a name of the checkpoint");
            let bytes = tensor.bytes();
            let samples = [0, bytes.len() / 2, bytes.len().saturating_sub(SAMPLE)];
            let samples = samples.map(|at| bytes[at..(at + SAMPLE).min(bytes.len())].to_vec());
            let described = format!("{name} {}", tensor.describe()).into_bytes();
            described.into_iter().chain(samples.into_iter().flatten())
        });
        fnv1a(parts)
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        let tensors = self.shards.iter().flat_map(Shard::tensors);
        tensors.map(|(_, tensor)| tensor.bytes().len() as u64).sum()
    }
}

/// A path of plain names, joined by `/`; none if it leads out of its folder.
fn plain_name(path: &Path) -> Option<String> {
    let mut names = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => names.push(name.to_string_lossy()),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!names.is_empty()).then(|| names.join("/"))
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

/// Writes the index of safetensors files in a folder.
///
/// # Errors
/// If a file cannot be read, or the index cannot be written.
pub fn write_index(folder: &Path, files: &[String]) -> Result<(), CheckpointError> {
    let shards = files.iter().map(|file| Shard::open(&folder.join(file)));
    let path = folder.join(INDEX);
    let index = Index::of(&path, &shards.collect::<Result<Vec<_>, _>>()?);
    let text = serde_json::to_string_pretty(&index).expect("names and numbers");
    fs::write(&path, text).map_err(CheckpointError::write(path))
}

/// The first of these names and how many follow, for messages; none if there is no name.
fn some_of<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<String> {
    let first = names.next()?;
    Some(match names.count() {
        0 => format!("\"{first}\""),
        more => format!("\"{first}\" and {more} more"),
    })
}

impl Index {
    /// Reads an index. It may name files in folders below its own.
    ///
    /// # Errors
    /// If it cannot be read, or names files outside its folder.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let refuse = |reason| CheckpointError::Index { path: path.to_owned(), reason };
        let text = fs::read_to_string(path).map_err(CheckpointError::open(path))?;
        let mut index: Self = serde_json::from_str(&text)
            .map_err(|error| refuse(format!("is not an index of safetensors files: {error}")))?;
        if index.weight_map.is_empty() {
            return Err(refuse("names no tensor: fetch it again".to_string()));
        }
        for file in index.weight_map.values_mut() {
            *file = plain_name(Path::new(file)).ok_or_else(|| {
                refuse(format!(
                    "names the file \"{file}\", which is not in its folder: use names of files in it"
                ))
            })?;
        }
        Ok(Self { path: path.to_owned(), ..index })
    }

    /// The index of files that are there.
    fn of(path: &Path, shards: &[Shard]) -> Self {
        let (mut weight_map, mut total) = (BTreeMap::new(), 0);
        for shard in shards {
            for (name, tensor) in shard.tensors() {
                weight_map.insert(name.to_owned(), shard.name.clone());
                total += tensor.bytes().len() as u64;
            }
        }
        let metadata = Map::from_iter([(TOTAL.to_owned(), Value::from(total))]);
        Self { path: path.to_owned(), metadata, weight_map }
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
            let file = &shard.name;
            let listed = map.iter().filter(|(_, listed)| *listed == file);
            let absent = listed.map(|(name, _)| name.as_str());
            if let Some(names) = some_of(absent.filter(|name| shard.tensor(name).is_none())) {
                problems.push(problem(format!(
                    "says that {file} holds {names}, which it does not: fetch both again"
                )));
            }
            let held = shard.tensors().map(|(name, _)| name);
            if let Some(names) = some_of(held.filter(|name| map.get(*name) != Some(file))) {
                problems.push(problem(format!(
                    "does not say that {file} holds {names}: fetch both again"
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
