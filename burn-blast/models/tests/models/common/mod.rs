//! Checkpoints of `testdata` and what transformers makes of them.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use burn_blast_models::{Model, ModelFolder, Precision};
use safetensors::SafeTensors;

pub fn folder(model: &str) -> PathBuf {
    // The tests of `blast` use these models too.
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    crates.join("models/testdata").join(model)
}

pub fn open(model: &str) -> ModelFolder {
    ModelFolder::open(folder(model)).unwrap()
}

pub fn load(model: &str, precision: Precision) -> Model {
    open(model).load(&Device::flex(), precision).unwrap()
}

/// Entries of a model's `expected.safetensors`.
pub struct Expected(pub Vec<u8>);

impl Expected {
    pub fn of(model: &str) -> Self {
        Self(std::fs::read(folder(model).join("expected.safetensors")).unwrap())
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

    pub fn numbers<T, const N: usize>(&self, name: &str, number: impl Fn([u8; N]) -> T) -> Vec<T> {
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
