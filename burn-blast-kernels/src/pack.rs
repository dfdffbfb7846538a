//! Dense weights to packed values and back, on the host.

use crate::{BlockMask, BlockPattern, BlockSize, MatrixShape};

/// Gathers the kept blocks of a dense row-major weight.
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
    for_each_row(pattern, |from, at, width| {
        values[at..at + width].copy_from_slice(&dense[from..from + width]);
    });
    values
}

/// Scatters packed values into a dense row-major weight, zero elsewhere.
///
/// # Shapes
/// - `values`: `[nnz, b, b]`
/// - output: `[d_input, d_output]`
///
/// # Panics
/// If `values` does not have the pattern's size.
pub fn unpack<T: Copy + Default>(values: &[T], pattern: &BlockPattern) -> Vec<T> {
    assert_eq!(values.len(), pattern.value_count(), "the values belong to another pattern");
    let mut dense = vec![T::default(); pattern.shape().area()];
    for_each_row(pattern, |to, at, width| {
        dense[to..to + width].copy_from_slice(&values[at..at + width]);
    });
    dense
}

/// Finds the blocks of a dense row-major weight that hold anything but zeros. NaN counts as content.
///
/// # Panics
/// If `dense` does not have the given shape.
pub fn nonzero_blocks(dense: &[f32], shape: MatrixShape, block: BlockSize) -> BlockMask {
    assert_eq!(dense.len(), shape.area(), "the dense weight has another shape");
    let mut mask = BlockMask::empty(shape, block);
    for (row, line) in dense.chunks_exact(shape.cols()).enumerate() {
        for (col, part) in line.chunks(block.get()).enumerate() {
            if part.iter().any(|&value| value != 0.0) {
                mask.set(row / block.get(), col, true);
            }
        }
    }
    mask
}

/// Calls `copy(dense offset, value offset, width)` for each row of each kept block that lies inside
/// the weight.
fn for_each_row(pattern: &BlockPattern, mut copy: impl FnMut(usize, usize, usize)) {
    let (shape, b) = (pattern.shape(), pattern.block().get());
    for (slot, (row, col)) in pattern.blocks().enumerate() {
        let width = b.min(shape.cols() - col * b);
        for inner in 0..b.min(shape.rows() - row * b) {
            let dense = (row * b + inner) * shape.cols() + col * b;
            copy(dense, (slot * b + inner) * b, width);
        }
    }
}
