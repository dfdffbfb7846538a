//! Block norms, by which pruning ranks blocks.

use rayon::prelude::*;

use super::sddmm::for_each_column;
use super::spmm::filled;
use super::tasks::SharedOut;
use super::{HostFloat, scratch};
use crate::BlockPattern;

/// Frobenius norm of each block.
///
/// # Shapes
/// - `values`: `[nnz, b, b]`
/// - output: `[nnz]`
///
/// # Panics
/// If `values` has another length.
pub fn block_norms<T: HostFloat>(values: &[T], pattern: &BlockPattern) -> Vec<T> {
    assert_eq!(values.len(), pattern.value_count(), "values must be [nnz, b, b]");
    T::narrow(T::widen(values).par_chunks(pattern.block().area()).map(block_norm).collect())
}

/// Frobenius norm of every block of `xᵀ · dy`, kept or not. Each thread holds one block of the product at a time.
///
/// # Shapes
/// - `x`: `[m, d_input]`, `dy`: `[m, d_output]`
/// - output: `[block_rows, block_cols]`
///
/// # Panics
/// If a slice has another length.
pub fn grad_block_norms<T: HostFloat>(
    x: &[T],
    dy: &[T],
    pattern: &BlockPattern,
    m: usize,
) -> Vec<T> {
    let (rows, cols) = (pattern.block_rows(), pattern.block_cols());
    let norms = filled(rows * cols, |out| {
        let out = SharedOut::<f32>::new(out);
        for_each_column(x, dy, pattern, m, pattern.shape().area(), |operands, col| {
            scratch::with(pattern.block().area(), |block| {
                for row in 0..rows {
                    operands.block(row, block.as_mut_ptr(), false);
                    // SAFETY: each column of the norms belongs to one task.
                    unsafe { out.at(row * cols + col).write(block_norm(block)) };
                }
            });
        });
    });
    T::narrow(norms)
}

/// Frobenius norm of one block. Squares are summed in f64, so that their order does not change a ranking.
pub fn block_norm(block: &[f32]) -> f32 {
    let squares: f64 = block.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    squares.sqrt() as f32
}
