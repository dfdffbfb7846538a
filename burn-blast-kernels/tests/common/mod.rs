//! Cases and numbers shared by the kernel tests of every engine.

use burn_blast_kernels::{BlockPattern, BlockSize, MatrixShape};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Rows of the input: one, two, and around the widths of vectors and tiles.
pub const ROWS: [usize; 8] = [1, 2, 15, 16, 17, 33, 64, 131];

/// Uniform numbers in `[-1, 1)`.
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Packed values that respect the format: zero where a ragged block lies outside the weight.
pub fn values(pattern: &BlockPattern, seed: u64) -> Vec<f32> {
    let dense = numbers(pattern.shape().area(), seed);
    burn_blast_kernels::pack::pack(&dense, pattern)
}

/// Patterns of every kind for one block size: whole and ragged sizes; none, one, some and all blocks;
/// empty rows and columns.
pub fn patterns(block: usize) -> Vec<(String, BlockPattern)> {
    let size = BlockSize::new(block).unwrap();
    let sides = [
        (2 * block, 3 * block),
        (3 * block - 3, 2 * block + 5),
        (block / 2 + 1, block + 1),
        (1, 1),
    ];
    let mut cases = Vec::new();
    for (rows, cols) in sides {
        let shape = MatrixShape::new(rows, cols).unwrap();
        let one = BlockPattern::new(shape, size, one_block(shape, size), vec![0]).unwrap();
        let kinds = [
            ("nnz 0", BlockPattern::random(shape, size, 0.0, 1)),
            ("one block", one),
            ("half", BlockPattern::random(shape, size, 0.5, 2)),
            ("band", BlockPattern::banded(shape, size, 0)),
            ("full", BlockPattern::dense(shape, size)),
        ];
        for (kind, pattern) in kinds {
            cases.push((format!("block {block}, {rows} x {cols}, {kind}"), pattern));
        }
    }
    cases
}

/// Column pointers of a pattern whose only block is in the last column.
fn one_block(shape: MatrixShape, size: BlockSize) -> Vec<u32> {
    let mut col_ptr = vec![0; shape.block_cols(size) + 1];
    *col_ptr.last_mut().unwrap() = 1;
    col_ptr
}
