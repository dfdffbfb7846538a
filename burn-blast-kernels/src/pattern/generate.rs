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

    /// Exactly `round(density * blocks)` random blocks, spread evenly: the counts of any two block columns differ by one
    /// at most, and block rows are used by turns.
    pub fn random_balanced(shape: MatrixShape, block: BlockSize, density: f64, seed: u64) -> Self {
        let (rows, cols) = (shape.block_rows(block), shape.block_cols(block));
        let kept = (density.clamp(0.0, 1.0) * (rows * cols) as f64).round() as usize;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut mask = BlockMask::empty(shape, block);
        let mut turn: Vec<usize> = Vec::new();
        for (at, col) in sample(&mut rng, cols, cols).into_iter().enumerate() {
            for _ in 0..kept / cols + usize::from(at < kept % cols) {
                let is_free = |&row: &usize| !mask.get(row, col);
                let place = turn.iter().position(is_free).unwrap_or_else(|| {
                    // Every row once more, in another order.
                    let from = turn.len();
                    turn.extend(sample(&mut rng, rows, rows));
                    from + turn[from..].iter().position(is_free).expect("a column has room")
                });
                mask.set(turn.remove(place), col, true);
            }
        }
        Self::from_mask(&mask)
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
