//! Conversion between dense weights and packed values, on the host.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::{BlockMask, BlockPattern, BlockSize, MatrixShape};

/// Fewest elements per unpacking task: some tens of microseconds. Guess.
const MIN_TASK: usize = 1 << 16;

/// Copies the kept blocks of a dense row-major weight to packed values.
///
/// # Shapes
/// - `dense`: `[d_input, d_output]`
/// - output: `[nnz, b, b]`; parts of ragged blocks outside the weight are zero
///
/// # Panics
/// If `dense` does not have the pattern's shape.
pub fn pack<T: Copy + Default>(dense: &[T], pattern: &BlockPattern) -> Vec<T> {
    assert_eq!(dense.len(), pattern.shape().area(), "the dense weight has another shape");
    let mut values = vec![T::default(); pattern.value_count()];
    let (shape, b) = (pattern.shape(), pattern.block().get());
    for (slot, (row, col)) in pattern.blocks().enumerate() {
        let width = b.min(shape.cols() - col * b);
        for inner in 0..b.min(shape.rows() - row * b) {
            let from = (row * b + inner) * shape.cols() + col * b;
            let to = (slot * b + inner) * b;
            values[to..to + width].copy_from_slice(&dense[from..from + width]);
        }
    }
    values
}

/// Copies packed values to a dense row-major weight, with zeros elsewhere.
///
/// # Shapes
/// - `values`: `[nnz, b, b]`
/// - output: `[d_input, d_output]`
///
/// # Panics
/// If `values` does not have the pattern's size.
pub fn unpack<T: Copy + Default + Send + Sync>(values: &[T], pattern: &BlockPattern) -> Vec<T> {
    let area = pattern.shape().area();
    let mut dense = Vec::with_capacity(area);
    unpack_into(values, pattern, &mut dense.spare_capacity_mut()[..area]);
    // SAFETY: every element was written.
    unsafe { dense.set_len(area) };
    dense
}

/// [`unpack`], written to `out`. Large weights are unpacked on several threads.
///
/// # Shapes
/// - `values`: `[nnz, b, b]`
/// - `out`: `[d_input, d_output]`, every element is written
///
/// # Panics
/// If a slice does not have the pattern's size.
pub fn unpack_into<T: Copy + Default + Send + Sync>(
    values: &[T],
    pattern: &BlockPattern,
    out: &mut [MaybeUninit<T>],
) {
    assert_eq!(values.len(), pattern.value_count(), "the values belong to another pattern");
    assert_eq!(out.len(), pattern.shape().area(), "the dense weight has another shape");
    let (cols, b) = (pattern.shape().cols(), pattern.block().get());
    // Row by row, so that writes are consecutive. The blocks of a block row stay in the cache meanwhile.
    let block_rows = out.par_chunks_mut(b * cols).with_min_len(MIN_TASK.div_ceil(b * cols));
    block_rows.enumerate().for_each(|(row, rows)| {
        let kept = pattern.row_ptr()[row] as usize..pattern.row_ptr()[row + 1] as usize;
        let blocks = || kept.clone().map(|at| (pattern.slot()[at], pattern.col_idx()[at]));
        for (inner, row) in rows.chunks_mut(cols).enumerate() {
            row.fill(MaybeUninit::new(T::default()));
            for (slot, col) in blocks() {
                let to = &mut row[col as usize * b..cols.min((col as usize + 1) * b)];
                let from = &values[(slot as usize * b + inner) * b..][..to.len()];
                for (to, &value) in to.iter_mut().zip(from) {
                    to.write(value);
                }
            }
        }
    });
}

/// The mask of the blocks of a dense row-major weight with an element that is not zero. NaN is not zero.
///
/// # Panics
/// If `dense` does not have the given shape.
pub fn nonzero_blocks(dense: &[f32], shape: MatrixShape, block: BlockSize) -> BlockMask {
    assert_eq!(dense.len(), shape.area(), "the dense weight has another shape");
    let mut mask = BlockMask::empty(shape, block);
    for (row, elements) in dense.chunks_exact(shape.cols()).enumerate() {
        for (col, elements) in elements.chunks(block.get()).enumerate() {
            if elements.iter().any(|&value| value != 0.0) {
                mask.set(row / block.get(), col, true);
            }
        }
    }
    mask
}
