//! Measured break-even points of products.

use burn::tensor::DType;
use burn_blast_kernels::{BlockPattern, PathReason};
use serde::{Deserialize, Serialize};

/// A measurement is used for sizes up to this factor away. Guess.
const NEAR: f64 = 4.0;

/// Measured break-even points of one device. [`tuning::apply`](crate::tuning::apply) gives it to the layers of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuningTable {
    /// Name of the processor or GPU.
    pub device: String,
    /// Burn's backend.
    pub backend: String,
    /// Cargo features that change what is compared.
    pub features: Vec<String>,
    /// One for each size, block, type and number of rows.
    pub entries: Vec<BreakEven>,
}

/// Where a product of one size breaks even.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BreakEven {
    /// Side of a block.
    pub block: usize,
    /// Storage type: `f32`, `f16`, `bf16`.
    pub dtype: String,
    /// Contraction size.
    pub d_input: usize,
    /// Output size.
    pub d_output: usize,
    /// Rows of the input.
    pub rows: usize,
    /// Largest density at which the sparse product is as fast as the dense one: 1 if it wins with every block kept, 0
    /// if it never wins.
    pub break_even_density: f64,
    /// Whether no larger density was measured: sparse may pay above it too.
    pub at_least: bool,
}

impl TuningTable {
    /// The break-even point of the nearest size that was measured with this block size and type, if one is near.
    pub(crate) fn reason(
        &self,
        pattern: &BlockPattern,
        dtype: DType,
        rows: usize,
    ) -> Option<PathReason> {
        let dtype = dtype.name();
        let wanted = [pattern.shape().rows(), pattern.shape().cols(), rows];
        let size = |entry: &BreakEven| [entry.d_input, entry.d_output, entry.rows];
        let apart = |entry: &&BreakEven| {
            let factors =
                size(entry).into_iter().zip(wanted).map(|(a, b)| (a as f64 / b as f64).ln());
            factors.map(f64::abs).fold(0.0, f64::max)
        };
        let alike =
            |entry: &&BreakEven| entry.block == pattern.block().get() && entry.dtype == dtype;
        let nearest = self
            .entries
            .iter()
            .filter(alike)
            .filter(|entry| apart(entry) <= NEAR.ln())
            .min_by(|a, b| apart(a).total_cmp(&apart(b)))?;
        // The largest measured density may have won: nothing is known above it.
        let known = !nearest.at_least || pattern.density() <= nearest.break_even_density;
        let break_even = nearest.break_even_density;
        known.then(|| PathReason::Measured { break_even, size: size(nearest) })
    }
}

#[cfg(test)]
mod tests {
    use burn_blast_kernels::{BlockSize, MatrixShape};

    use super::*;

    fn entry(rows: usize, break_even_density: f64) -> BreakEven {
        BreakEven {
            block: 32,
            dtype: "f32".to_owned(),
            d_input: 512,
            d_output: 1024,
            rows,
            break_even_density,
            at_least: false,
        }
    }

    fn table() -> TuningTable {
        TuningTable {
            device: "a processor".to_owned(),
            backend: "flex".to_owned(),
            features: Vec::new(),
            entries: vec![entry(1, 0.9), entry(256, 0.4)],
        }
    }

    fn pattern(rows: usize, cols: usize, block: usize) -> BlockPattern {
        let shape = MatrixShape::new(rows, cols).unwrap();
        BlockPattern::random(shape, BlockSize::new(block).unwrap(), 0.5, 1)
    }

    #[test]
    fn the_nearest_size_speaks_and_a_far_one_does_not() {
        let found = |shape: [usize; 2], block, dtype, rows| {
            table().reason(&pattern(shape[0], shape[1], block), dtype, rows)
        };
        let measured =
            |break_even, rows| Some(PathReason::Measured { break_even, size: [512, 1024, rows] });
        assert_eq!(found([512, 1024], 32, DType::F32, 2), measured(0.9, 1));
        assert_eq!(found([512, 2048], 32, DType::F32, 200), measured(0.4, 256));
        assert_eq!(found([512, 1024], 32, DType::F32, 4096), None);
        assert_eq!(found([512, 1024], 64, DType::F32, 1), None);
        assert_eq!(found([512, 1024], 32, DType::F16, 1), None);
    }

    #[test]
    fn nothing_is_known_above_the_largest_density_that_was_measured() {
        let half = pattern(512, 1024, 32);
        let reason = |break_even_density| {
            let entries = vec![BreakEven { at_least: true, ..entry(1, break_even_density) }];
            TuningTable { entries, ..table() }.reason(&half, DType::F32, 1)
        };
        assert!(reason(0.6).is_some());
        assert_eq!(reason(0.1), None);
    }
}
