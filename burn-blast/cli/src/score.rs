//! What the blocks of a weight are ranked by.
//!
//! The score of Wanda takes a safetensors file with one entry per weight, under the weight's own name: F32 of
//! `[d_input]`, the Euclidean norm of each input feature over all tokens of the calibration data, `sqrt(Σ x²)`.

use std::path::Path;

use burn_blast_checkpoint::{DenseWeight, Shard};
use burn_blast_kernels::BlockSize;
use burn_blast_kernels::cpu::block_norm;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use safetensors::Dtype;

use crate::error::Error;

/// Frobenius norm of each block by its number. With activations, one per input feature, every row of the weight is
/// multiplied by the norm of its feature (the score of Wanda, arXiv 2306.11695, over a block).
///
/// # Shapes
/// - `activations`: `[d_input]`
/// - output: `[block_rows, block_cols]`
pub fn scores(weight: &DenseWeight<'_>, block: BlockSize, activations: Option<&[f32]>) -> Vec<f32> {
    let scores = match weight.tensor.dtype() {
        Dtype::F32 => block_scores(weight, block, activations, |from, to| {
            for (bytes, value) in from.iter().zip(to) {
                *value = f32::from_le_bytes(*bytes);
            }
        }),
        Dtype::BF16 => block_scores(weight, block, activations, |from, to| {
            for (bytes, value) in from.iter().zip(to) {
                *value = bf16::from_le_bytes(*bytes).to_f32();
            }
        }),
        // One call per slice: a conversion element by element would detect the processor's features each time.
        _ => block_scores(weight, block, activations, |from, to| {
            let bits: Vec<u16> = from.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect();
            bits.reinterpret_cast::<f16>().convert_to_f32_slice(to);
        }),
    };
    weight.tensor.release();
    scores
}

fn block_scores<const N: usize>(
    weight: &DenseWeight<'_>,
    block: BlockSize,
    activations: Option<&[f32]>,
    widen: impl Fn(&[[u8; N]], &mut [f32]) + Sync,
) -> Vec<f32> {
    let b = block.get();
    weight.by_block(block, |row, taken, wide: &mut Vec<f32>| {
        wide.resize(block.area(), 0.0);
        widen(taken, wide);
        if let Some(activations) = activations {
            let features = &activations[row * b..activations.len().min((row + 1) * b)];
            for (weights, feature) in wide.chunks_exact_mut(b).zip(features) {
                weights.iter_mut().for_each(|value| *value *= feature);
            }
        }
        block_norm(wide)
    })
}

/// An opened file of activations.
#[derive(Debug)]
pub struct Activations(Shard);

impl Activations {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self(Shard::open(path)?))
    }

    /// The norms of a weight's input features.
    ///
    /// # Errors
    /// If they are missing, of another type or length, or not norms.
    pub fn of(&self, weight: &DenseWeight<'_>) -> Result<Vec<f32>, Error> {
        let refuse = |reason: String| {
            let (path, name) = (self.0.path.clone(), weight.name.clone());
            Error::Activations { path, name, reason }
        };
        let d_input = weight.shape.rows();
        let Some(tensor) = self.0.tensor(&weight.name) else {
            return Err(refuse(
                "is missing: collect it, or leave the weight out with --exclude".to_string(),
            ));
        };
        if tensor.shape() != [d_input] || tensor.dtype() != Dtype::F32 {
            let found = tensor.describe();
            return Err(refuse(format!(
                "is {found}, but must be F32 of [{d_input}], one for each input feature"
            )));
        }
        let norms = tensor.elements().iter().map(|bytes| f32::from_le_bytes(*bytes));
        let norms: Vec<f32> = norms.collect();
        match norms.iter().position(|norm| !norm.is_finite() || *norm < 0.0) {
            Some(at) => Err(refuse(format!("holds {} at {at}, which is not a norm", norms[at]))),
            None => Ok(norms),
        }
    }
}
