//! Random numbers and patterns for the tests.

use burn_blast_kernels::{BlockPattern, BlockSize, MatrixShape};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Uniform numbers in `[-1, 1)`.
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// A pattern of random blocks.
pub fn random([rows, cols, block]: [usize; 3], density: f64, seed: u64) -> BlockPattern {
    let shape = MatrixShape::new(rows, cols).unwrap();
    BlockPattern::random(shape, BlockSize::new(block).unwrap(), density, seed)
}

/// Packed values that respect the format: zero where a ragged block is outside the weight.
pub fn values(pattern: &BlockPattern, seed: u64) -> Vec<f32> {
    let dense = numbers(pattern.shape().area(), seed);
    burn_blast_kernels::pack::pack(&dense, pattern)
}
