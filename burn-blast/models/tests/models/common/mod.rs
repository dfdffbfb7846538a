//! Checkpoints of `testdata` and what transformers makes of them.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use burn_blast_models::{Checkpoint, Model, Precision};
use safetensors::SafeTensors;

/// The four models that `testdata/make.py` writes.
pub const MODELS: [&str; 4] = ["llama3", "tied", "gpt2", "packed"];

pub fn folder(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(model)
}

pub fn open(model: &str) -> Checkpoint {
    Checkpoint::open(folder(model)).unwrap()
}

pub fn load(model: &str, precision: Precision) -> Model {
    open(model).load(&Device::flex(), precision).unwrap()
}

/// A copy of a model's folder that a test may change.
pub fn copy(model: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder(model)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

/// Entries of a model's `expected.safetensors`.
pub struct Expected(Vec<u8>);

impl Expected {
    pub fn of(model: &str) -> Self {
        Self(std::fs::read(folder(model).join("expected.safetensors")).unwrap())
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.numbers(name, f32::from_le_bytes)
    }

    pub fn double(&self, name: &str) -> f64 {
        self.numbers(name, f64::from_le_bytes)[0]
    }

    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.numbers(name, |bytes| i64::from_le_bytes(bytes) as u32)
    }

    /// The two texts.
    pub fn texts(&self) -> [Vec<u32>; 2] {
        let ids = self.ids("tokens");
        let (first, second) = ids.split_at(ids.len() / 2);
        [first.to_vec(), second.to_vec()]
    }

    /// Single-precision logits: those of the file, or of the converted model.
    pub fn single(&self) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        self.floats(if file.tensor("logits_f32").is_ok() { "logits_f32" } else { "logits" })
    }

    fn numbers<T, const N: usize>(&self, name: &str, number: impl Fn([u8; N]) -> T) -> Vec<T> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        view.data().chunks_exact(N).map(|bytes| number(bytes.try_into().unwrap())).collect()
    }
}

pub fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().unwrap()
}

/// Largest distance of two sets of scores, as a share of the largest score.
pub fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |largest, score| largest.max(score.abs()));
    assert!(found.iter().all(|score| score.is_finite()));
    let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    apart.fold(0f32, f32::max) / largest
}
