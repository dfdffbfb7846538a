//! What the tests share: running `blast`, and reading checkpoints without its code.

pub mod synthetic;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;

use synthetic::{Family, Model};

/// How a run of `blast` ended.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Outcome {
    /// Its output as JSON.
    pub fn json(&self) -> Value {
        assert_eq!(self.err, "", "nothing but results when all is well");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {}", self.out))
    }
}

/// Runs `blast`.
pub fn blast<S: AsRef<OsStr>>(words: &[S]) -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_blast")).args(words).output().unwrap();
    Outcome {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs `blast COMMAND PATHS.. REST..`, where the rest is separated by blanks.
pub fn run(command: &str, paths: &[&Path], rest: &str) -> Outcome {
    let mut words = vec![command.to_string()];
    words.extend(paths.iter().map(|path| path.display().to_string()));
    words.extend(rest.split_whitespace().map(str::to_string));
    blast(&words)
}

/// Runs `blast`, which must end well.
pub fn fine(command: &str, paths: &[&Path], rest: &str) -> Outcome {
    let outcome = run(command, paths, rest);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    outcome
}

/// Runs `blast`, which must refuse with a message that has all these parts, and leave no temporary file.
pub fn refused(folder: &TempDir, command: &str, paths: &[&Path], rest: &str, parts: &[&str]) {
    let outcome = run(command, paths, rest);
    assert_eq!(outcome.code, 2, "{outcome:?}");
    for part in parts {
        assert!(outcome.err.contains(part), "no \"{part}\" in {}", outcome.err);
    }
    assert_eq!(outcome.out, "");
    no_rubbish(folder);
}

/// No temporary file or folder is left.
pub fn no_rubbish(folder: &TempDir) {
    for entry in fs::read_dir(folder.path()).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(!name.to_string_lossy().ends_with(".part"), "{name:?} is left behind");
    }
}

/// A tensor as stored in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Stored {
    pub fn f32(shape: &[usize], numbers: &[f32]) -> Self {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    pub fn i32(numbers: &[i32]) -> Self {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Self { dtype: Dtype::I32, shape: vec![numbers.len()], bytes }
    }

    /// Its elements as numbers.
    pub fn numbers(&self) -> Vec<f64> {
        let read = |bytes: &[u8]| match self.dtype {
            Dtype::F32 => f32::from_le_bytes(bytes.try_into().unwrap()).into(),
            Dtype::F16 => f16::from_le_bytes(bytes.try_into().unwrap()).into(),
            Dtype::BF16 => bf16::from_le_bytes(bytes.try_into().unwrap()).into(),
            Dtype::I32 => i32::from_le_bytes(bytes.try_into().unwrap()).into(),
            other => panic!("no tests with {other}"),
        };
        self.bytes.chunks_exact(self.dtype.bitsize() / 8).map(read).collect()
    }
}

/// Tensors by name.
pub type Tensors = BTreeMap<String, Stored>;

/// All tensors of a file, or of the safetensors files of a folder.
pub fn tensors(path: &Path) -> Tensors {
    let mut tensors = Tensors::new();
    for file in safetensors_files(path) {
        let bytes = fs::read(file).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let (dtype, shape) = (view.dtype(), view.shape().to_vec());
            let stored = Stored { dtype, shape, bytes: view.data().to_vec() };
            assert!(tensors.insert(name, stored).is_none());
        }
    }
    tensors
}

/// Metadata of a file.
pub fn metadata(file: &Path) -> BTreeMap<String, String> {
    let bytes = fs::read(file).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    metadata.metadata().clone().unwrap_or_default().into_iter().collect()
}

/// Writes a file.
pub fn write(file: &Path, tensors: &Tensors, metadata: &[(&str, &str)]) {
    let view = |stored: &Stored| {
        let bytes: &'static [u8] = stored.bytes.clone().leak();
        TensorView::new(stored.dtype, stored.shape.clone(), bytes).unwrap()
    };
    let views = tensors.iter().map(|(name, stored)| (name.clone(), view(stored)));
    let metadata = metadata.iter().map(|(key, text)| (key.to_string(), text.to_string()));
    let metadata: HashMap<String, String> = metadata.collect();
    let bytes = safetensors::serialize(views, (!metadata.is_empty()).then_some(metadata)).unwrap();
    fs::write(file, bytes).unwrap();
}

pub fn safetensors_files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let files = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        files.filter(|file| file.extension().is_some_and(|end| end == "safetensors")).collect();
    files.sort();
    files
}

/// Blocks of a dense matrix as on disk: block row and column of the `[d_input, d_output]` weight, and the places of
/// its elements. The naive way, to compare with.
pub fn blocks(
    shape: &[usize],
    block: usize,
    out_in: bool,
) -> BTreeMap<(usize, usize), Vec<(usize, usize)>> {
    let mut blocks: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in 0..shape[0] {
        for col in 0..shape[1] {
            let (input, output) = if out_in { (col, row) } else { (row, col) };
            blocks
                .entry((input / block, output / block))
                .or_default()
                .push((row * shape[1] + col, input));
        }
    }
    blocks
}

/// The `keep` best blocks by norm, with a weight for each input feature.
pub fn best(
    stored: &Stored,
    block: usize,
    out_in: bool,
    keep: usize,
    features: Option<&[f32]>,
) -> Vec<(usize, usize)> {
    let numbers = stored.numbers();
    let mut scored: Vec<(f64, (usize, usize))> = Vec::new();
    for (at, places) in blocks(&stored.shape, block, out_in) {
        let square = |&(place, input): &(usize, usize)| {
            let value = numbers[place] * features.map_or(1.0, |features| features[input].into());
            value * value
        };
        scored.push((places.iter().map(square).sum(), at));
    }
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut kept: Vec<_> = scored.into_iter().take(keep).map(|(_, at)| at).collect();
    kept.sort();
    kept
}

/// Checks that `pruned` is `dense` with exactly these blocks, bit for bit, and zero elsewhere.
pub fn check_pruned(
    name: &str,
    dense: &Stored,
    pruned: &Stored,
    block: usize,
    out_in: bool,
    kept: &[(usize, usize)],
) {
    assert_eq!((pruned.dtype, &pruned.shape), (dense.dtype, &dense.shape), "{name}");
    let size = dense.dtype.bitsize() / 8;
    for (at, places) in blocks(&dense.shape, block, out_in) {
        for (place, _) in places {
            let range = place * size..(place + 1) * size;
            let expected = match kept.contains(&at) {
                true => dense.bytes[range.clone()].to_vec(),
                false => vec![0; size],
            };
            assert_eq!(pruned.bytes[range], expected, "{name}, block {at:?}");
        }
    }
}

/// A small sharded model of two layers.
pub fn small(family: Family, dtype: Dtype) -> Model {
    Model { family, dtype, layers: 2, d_model: 64, d_ff: 160, vocab: 50, shards: 3 }
}
