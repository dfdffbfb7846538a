//! Tables and plots of a model and a run.

#[cfg(feature = "plot")]
pub mod plot;

use std::fmt;

use burn::module::Module;
use burn::tensor::DType;
use burn_blast_kernels::BlockPattern;

use crate::quantize::value_bytes;
use crate::window::{WeightEntry, weights};

/// One block-sparse layer of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSummary {
    /// Path of the layer in the model.
    pub name: String,
    /// Which blocks it keeps.
    pub pattern: BlockPattern,
    /// Bytes of its values and indices.
    pub bytes: usize,
    /// Bytes of the same weight dense, in f32 if this one is quantised.
    pub dense_bytes: usize,
}

/// All block-sparse layers of a model. Prints as a table.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSummary {
    /// The layers, in the order of the model.
    pub layers: Vec<LayerSummary>,
}

impl ModelSummary {
    /// Share of blocks removed over all layers.
    pub fn sparsity(&self) -> f64 {
        let sum = |count: fn(&BlockPattern) -> usize| {
            self.layers.iter().map(|layer| count(&layer.pattern)).sum::<usize>() as f64
        };
        let blocks = sum(BlockPattern::block_count);
        if blocks > 0.0 { 1.0 - sum(BlockPattern::nnz) / blocks } else { 0.0 }
    }

    /// Bytes of all values and indices.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.bytes).sum()
    }

    /// Bytes of the same weights dense.
    pub fn dense_bytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.dense_bytes).sum()
    }
}

/// Lists the block-sparse layers of a model.
pub fn summary<M: Module>(model: &M) -> ModelSummary {
    let layer = |weight: WeightEntry| {
        let (dtype, pattern) = (weight.dtype, &weight.pattern);
        let dense = if dtype.is_float() { dtype } else { DType::F32 };
        LayerSummary {
            name: weight.layer(),
            bytes: value_bytes(dtype, pattern) + pattern.index_bytes(),
            dense_bytes: pattern.shape().area() * dense.size(),
            pattern: weight.pattern,
        }
    };
    ModelSummary { layers: weights(model).into_iter().map(layer).collect() }
}

impl fmt::Display for ModelSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<32} {:>13} {:>6} {:>13} {:>9} {:>11}",
            "layer", "size", "block", "kept", "sparsity", "KiB"
        )?;
        for layer in &self.layers {
            let pattern = &layer.pattern;
            let size = format!("{} x {}", pattern.shape().rows(), pattern.shape().cols());
            let kept = format!("{} / {}", pattern.nnz(), pattern.block_count());
            let sparsity = 100.0 * (1.0 - pattern.density());
            let (name, block) = (&layer.name, pattern.block().get());
            let kib = layer.bytes as f64 / 1024.0;
            writeln!(
                f,
                "{name:<32} {size:>13} {block:>6} {kept:>13} {sparsity:>8.1}% {kib:>11.1}"
            )?;
        }
        write!(
            f,
            "all {} layers: {:.1} % of blocks removed, {:.1} KiB of {:.1} KiB dense",
            self.layers.len(),
            100.0 * self.sparsity(),
            self.bytes() as f64 / 1024.0,
            self.dense_bytes() as f64 / 1024.0
        )
    }
}
