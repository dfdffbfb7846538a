//! Blocks of 4-bit integers.
//!
//! A value is `low + n · step` with `n` of 0 to 15. A column of a block has one `low` and `step` for each 32 rows, or one in
//! smaller blocks. Such a group of rows is stored together, 16 columns (8 in blocks of 8) at a time, so that a column of blocks is read
//! from its first byte to its last:
//!
//! ```text
//! words   [rows / 8, 16]   a little-endian word of 32 bits for 8 rows of a column, the first row in the lowest bits
//! scales  [16]             a word for each column: low in the upper, step in the lower half, both in bf16
//! ```
//!
//! A value takes 5 bits in blocks of 32 and larger, as in the type Q4_1 of llama.cpp, whose groups are these columns too.

use half::bf16;
use rayon::prelude::*;

use crate::{BlockPattern, BlockSize};

/// Rows of a word.
pub(super) const OCTET: usize = 8;

/// Most rows that share a scale.
const GROUP: usize = 32;

/// Largest integer.
const TOP: f32 = 15.0;

/// Shares of the range of a group that may be cut at either end. If few values are far out, the others gain by it.
const CUTS: [f32; 4] = [0.0, 0.025, 0.05, 0.08];

/// Bytes of a word.
const WORD: usize = 4;

/// Rows of a block of side `b` that share a scale.
pub(super) fn group_rows(b: usize) -> usize {
    b.min(GROUP)
}

/// Columns that are stored together.
pub(super) fn panel_cols(b: usize) -> usize {
    b.min(16)
}

/// Byte of the word of eight rows of a column in a group.
pub(super) fn word_at(b: usize, octet: usize, col: usize) -> usize {
    let (rows, cols) = (group_rows(b), panel_cols(b));
    let panel = (rows / OCTET + 1) * cols;
    (col / cols * panel + octet * cols + col % cols) * WORD
}

/// Byte of the scale of a column in a group.
pub(super) fn scale_at(b: usize, col: usize) -> usize {
    word_at(b, group_rows(b) / OCTET, col)
}

/// Bytes of a group.
pub(super) fn group_len(b: usize) -> usize {
    (group_rows(b) / OCTET + 1) * b * WORD
}

/// Bytes of a block of 4-bit integers: 5 bits for a value, 6 in blocks of 16, 8 in blocks of 8.
pub fn int4_block_len(block: BlockSize) -> usize {
    let b = block.get();
    b / group_rows(b) * group_len(b)
}

/// The low end and the step of a scale.
#[inline(always)]
pub(super) fn low_and_step(scale: u32) -> (f32, f32) {
    (f32::from_bits(scale & 0xffff_0000), f32::from_bits(scale << 16))
}

/// Rounds packed values `[nnz, b, b]` to 4-bit integers. Returns the bytes of [`Values::Int4`](super::Values::Int4),
/// [`int4_block_len`] for each block.
///
/// Each group takes the scale with the least sum of squares of errors, among sixteen that cut its range at either end by 0 to 8 %.
/// A value is off by at most a ninth of the range of its group plus 1/128 of the largest magnitude, mostly by less
/// than a thirtieth of the range. Ranges below 1e-37 are lost. What is outside the weight counts for no range. Values must be
/// finite, with ranges that are.
///
/// # Panics
/// If `values` has another length.
pub fn quantize_int4(values: &[f32], pattern: &BlockPattern) -> Vec<i8> {
    let (b, area) = (pattern.block().get(), pattern.block().area());
    assert_eq!(values.len(), pattern.value_count(), "values must be [nnz, b, b]");
    let len = int4_block_len(pattern.block());
    let mut bytes = vec![0; pattern.nnz() * len];
    let blocks = values.par_chunks_exact(area).zip(pattern.row_idx());
    blocks.zip(bytes.par_chunks_exact_mut(len)).for_each(|((values, &row), bytes)| {
        let inside = b.min(pattern.shape().rows() - row as usize * b);
        let groups =
            values.chunks_exact(group_rows(b) * b).zip(bytes.chunks_exact_mut(group_len(b)));
        for (group, (values, bytes)) in groups.enumerate() {
            write_group(values, b, inside.saturating_sub(group * group_rows(b)), bytes);
        }
    });
    bytes
}

/// Writes a group of rows, of which the first `inside` are inside the weight.
fn write_group(values: &[f32], b: usize, inside: usize, bytes: &mut [i8]) {
    let rows = group_rows(b);
    for col in 0..b {
        // Rows outside repeat the first one.
        let mut column = [if inside == 0 { 0.0 } else { values[col] }; GROUP];
        for (to, row) in column.iter_mut().zip(values.chunks_exact(b)).take(inside) {
            *to = row[col];
        }
        let column = &column[..rows];
        let scale = best_scale(column);
        let place = &mut bytes[scale_at(b, col)..][..WORD];
        place.copy_from_slice(&scale.to_le_bytes().map(|byte| byte as i8));
        let (low, inverse) = (low_and_step(scale).0, inverse_step(scale));
        for (row, &value) in column.iter().enumerate() {
            let at = word_at(b, row / OCTET, col) + row % OCTET / 2;
            bytes[at] |= ((nearest(value, low, inverse) as u8) << (row % 2 * 4)) as i8;
        }
    }
}

/// The packed values `[nnz, b, b]` that [`quantize_int4`] made bytes of, rounded; zero outside the weight.
///
/// # Panics
/// If `bytes` has another length.
pub fn dequantize_int4(bytes: &[i8], pattern: &BlockPattern) -> Vec<f32> {
    let (b, area) = (pattern.block().get(), pattern.block().area());
    let len = int4_block_len(pattern.block());
    assert_eq!(bytes.len(), pattern.nnz() * len, "bytes must be of the pattern's blocks");
    let mut values = vec![0.0; pattern.value_count()];
    let blocks = bytes.par_chunks_exact(len).zip(pattern.row_idx());
    values.par_chunks_exact_mut(area).zip(blocks).for_each(|(to, (bytes, &row))| {
        widen_block(bytes, b, to);
        let inside = b.min(pattern.shape().rows() - row as usize * b);
        to[inside * b..].fill(0.0);
    });
    values
}

/// What is added to a small number to round it to an integer, ties to even, without a call.
const ROUND: f32 = 12_582_912.0;

/// The integer whose value is nearest.
#[inline(always)]
fn nearest(value: f32, low: f32, inverse: f32) -> f32 {
    (((value - low) * inverse).clamp(0.0, TOP) + ROUND) - ROUND
}

/// One by the step of a scale; 0 if this is no number.
fn inverse_step(scale: u32) -> f32 {
    let inverse = 1.0 / low_and_step(scale).1;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The scale with the least sum of squares of errors.
fn best_scale(values: &[f32]) -> u32 {
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = high - low;
    let scale = |[below, above]: [f32; 2]| {
        let low = bf16::from_f32(low + below * range);
        let step = bf16::from_f32(((high - above * range - low.to_f32()) / TOP).max(0.0));
        u32::from(low.to_bits()) << 16 | u32::from(step.to_bits())
    };
    let error = |scale: u32| -> f32 {
        let ((low, step), inverse) = (low_and_step(scale), inverse_step(scale));
        // Several sums, so that they can be one vector.
        let mut sums = [0.0; OCTET];
        for values in values.as_chunks::<OCTET>().0 {
            for (sum, value) in sums.iter_mut().zip(values) {
                let error = value - (low + step * nearest(*value, low, inverse));
                *sum += error * error;
            }
        }
        sums.iter().sum()
    };
    let scales = CUTS.iter().flat_map(|&below| CUTS.map(|above| scale([below, above])));
    let best = scales.map(|scale| (error(scale), scale)).min_by(|a, b| a.0.total_cmp(&b.0));
    best.expect("there are some").1
}

/// Writes a block `[b, b]` in f32.
#[inline(always)]
pub(super) fn widen_block(bytes: &[i8], b: usize, to: &mut [f32]) {
    let rows = group_rows(b);
    for (bytes, to) in bytes.chunks_exact(group_len(b)).zip(to.chunks_exact_mut(rows * b)) {
        let (words, cols) = (bytes.as_chunks::<WORD>().0, panel_cols(b));
        for first in (0..b).step_by(cols) {
            let of = |at: usize| &words[at / WORD..][..cols];
            let scales = of(scale_at(b, first));
            for (row, to) in to.chunks_exact_mut(b).enumerate() {
                let words = of(word_at(b, row / OCTET, first));
                for ((to, word), scale) in to[first..first + cols].iter_mut().zip(words).zip(scales)
                {
                    let (low, step) = low_and_step(little_endian(scale));
                    let integer = little_endian(word) >> (4 * (row % OCTET)) & 15;
                    *to = low + step * integer as i32 as f32;
                }
            }
        }
    }
}

/// A word.
#[inline(always)]
pub(super) fn little_endian(bytes: &[i8; WORD]) -> u32 {
    u32::from_le_bytes(bytes.map(|byte| byte as u8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MatrixShape;

    /// Every value comes back within its bound, in blocks of all sizes: zeros, random ones, few that are far out, large ones, ones far
    /// from zero, equal ones.
    #[test]
    fn values_come_back_within_their_bound() {
        for block in BlockSize::ALL {
            let b = block.get();
            let (group, area) = (group_rows(b), b * b);
            let kinds: [&dyn Fn(usize) -> f32; 6] = [
                &|_| 0.0,
                &|at| ((at * 7919) % 1000) as f32 / 1000.0 - 0.5,
                &|at| if at % 37 == 0 { -3.0 } else { 1e-3 * (at % 5) as f32 },
                &|at| 1e5 * ((at * 31) % 17) as f32,
                &|at| 100.0 + 1e-3 * (at % 7) as f32,
                &|_| -0.3,
            ];
            let values: Vec<f32> = kinds.iter().flat_map(|kind| (0..area).map(kind)).collect();
            let pattern = BlockPattern::dense(MatrixShape::new(6 * b, b).unwrap(), block);
            let bytes = quantize_int4(&values, &pattern);
            assert_eq!(bytes.len(), values.len() / 2 + values.len() / group * 4);
            let back = dequantize_int4(&bytes, &pattern);
            for (values, back) in values.chunks_exact(area).zip(back.chunks_exact(area)) {
                for (at, (value, back)) in values.iter().zip(back).enumerate() {
                    let (first, col) = (at / b / group * group, at % b);
                    let column = (first..first + group).map(|row| values[row * b + col]);
                    let low = column.clone().fold(f32::INFINITY, f32::min);
                    let high = column.fold(f32::NEG_INFINITY, f32::max);
                    let largest = low.abs().max(high.abs());
                    let error = (value - back).abs();
                    let bound = (high - low) / 9.0 + largest / 128.0;
                    assert!(error <= bound, "{b}: {value} became {back}");
                }
            }
        }
    }

    #[test]
    fn sixteen_values_at_equal_steps_come_back_exactly() {
        let block = BlockSize::new(16).unwrap();
        // Every column has all sixteen integers.
        let integer = |at: usize| ((at / 16 * 5 + at % 16 * 3) % 16) as f32 - 6.0;
        let values: Vec<f32> = (0..256).map(|at| 0.5 * integer(at)).collect();
        let pattern = BlockPattern::dense(MatrixShape::new(16, 16).unwrap(), block);
        assert_eq!(dequantize_int4(&quantize_int4(&values, &pattern), &pattern), values);
    }

    /// What is outside is zero, and takes no part: the values inside come back exactly, which zeros beside them would prevent.
    #[test]
    fn rows_outside_the_weight_are_zero_and_count_for_no_range() {
        for block in BlockSize::ALL {
            let b = block.get();
            let pattern = BlockPattern::dense(MatrixShape::new(b + 3, b).unwrap(), block);
            let inside = |at: usize| at < b * (b + 3);
            let value = |at: usize| if inside(at) { 100.0 + (at % 2) as f32 * 0.5 } else { 0.0 };
            let values: Vec<f32> = (0..2 * b * b).map(value).collect();
            assert_eq!(dequantize_int4(&quantize_int4(&values, &pattern), &pattern), values);
        }
    }

    /// Files hold these bytes.
    #[test]
    fn the_order_of_bytes_does_not_change() {
        let block = BlockSize::new(8).unwrap();
        let pattern = BlockPattern::dense(MatrixShape::new(8, 8).unwrap(), block);
        let rows = [0.0, 15.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let values: Vec<f32> = (0..64).map(|at| rows[at / 8] - (at % 8) as f32).collect();
        let mut expected = [0xf0, 0x21, 0x43, 0x65].repeat(8);
        let lows = [0x0000, 0xbf80, 0xc000, 0xc040, 0xc080, 0xc0a0, 0xc0c0, 0xc0e0_u16];
        for low in lows.map(u16::to_le_bytes) {
            expected.extend([0x80, 0x3f, low[0], low[1]]);
        }
        let bytes: Vec<u8> =
            quantize_int4(&values, &pattern).iter().map(|byte| *byte as u8).collect();
        assert_eq!(bytes, expected);
        // Behind 16 columns of four words and a scale, and another word of 16.
        assert_eq!(word_at(32, 1, 17), (80 + 16 + 1) * 4);
        assert_eq!([scale_at(128, 127), group_len(128)], [2556, 2560]);
    }
}
