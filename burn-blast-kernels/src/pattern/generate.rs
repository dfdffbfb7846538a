//! Generators of patterns.

use rand::SeedableRng;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;

use super::{BlockMask, BlockPattern, BlockSize, MatrixShape};
use crate::budget::keep_top;

impl BlockPattern {
    /// Every block kept.
    pub fn dense(shape: MatrixShape, block: BlockSize) -> Self {
        Self::from_mask(&BlockMask::full(shape, block))
    }

    /// Exactly `round(density * blocks)` random blocks, drawn without replacement.
    pub fn random(shape: MatrixShape, block: BlockSize, density: f64, seed: u64) -> Self {
        let blocks = shape.block_rows(block) * shape.block_cols(block);
        let kept = ((density.clamp(0.0, 1.0) * blocks as f64).round()) as usize;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let chosen = sample(&mut rng, blocks, kept);
        Self::from_mask(&BlockMask::from_indices(shape, block, chosen))
    }

    /// The `keep` blocks with the highest scores, given by block number. Ties go to the lower number.
    pub fn best(shape: MatrixShape, block: BlockSize, scores: &[f32], keep: usize) -> Self {
        Self::from_mask(&BlockMask::from_indices(shape, block, keep_top(scores, keep)))
    }

    /// The blocks within `half_width` block rows of the diagonal, which is stretched over the grid.
    pub fn banded(shape: MatrixShape, block: BlockSize, half_width: usize) -> Self {
        let (rows, cols) = (shape.block_rows(block), shape.block_cols(block));
        let mut mask = BlockMask::empty(shape, block);
        for col in 0..cols {
            let centre = col * rows / cols;
            for row in centre.saturating_sub(half_width)..rows.min(centre + half_width + 1) {
                mask.set(row, col, true);
            }
        }
        Self::from_mask(&mask)
    }
}
