//! Blocks of 4-bit integers.
//!
//! A value is `low + n · step` with `n` of 0 to 15. A column of a block has one `low` and `step` for each 32 rows, or one in
//! smaller blocks, both in bf16 in one word. Eight consecutive rows of a column are one little-endian word of 32 bits, the first row in its
//! lowest bits:
//!
//! ```text
//! bytes  [nnz, b / 8, b, 4]             32 bits for 8 rows of a column
//! scales [nnz, b / min(b, 32), b]       low in the upper, step in the lower half
//! ```
//!
//! So a vector of words has as many columns as lanes, and a value takes 5 bits, as in the type Q4_1 of llama.cpp, whose groups are
//! these columns.

use half::bf16;
use rayon::prelude::*;

use crate::BlockSize;

/// Rows of a word.
pub(super) const OCTET: usize = 8;

/// Most rows that share a scale.
const GROUP: usize = 32;

/// Largest integer.
const TOP: f32 = 15.0;

/// Shares of the range of a group that may be cut at either end. If few values are far out, the others gain by it.
const CUTS: [f32; 4] = [0.0, 0.025, 0.05, 0.08];

/// Rows of a block of side `b` that share a scale.
pub fn int4_group(b: usize) -> usize {
    b.min(GROUP)
}

/// The low end and the step of a scale.
#[inline(always)]
pub(super) fn low_and_step(scale: u32) -> (f32, f32) {
    (f32::from_bits(scale & 0xffff_0000), f32::from_bits(scale << 16))
}

/// Rounds packed values `[nnz, b, b]` to 4-bit integers. Returns the bytes and scales of [`Values::Int4`](super::Values::Int4).
///
/// Each group takes the scale with the least sum of squares of errors, among sixteen that cut its range at either end by 0 to 8 %.
/// A value is off by at most a ninth of the range of its group plus 1/128 of the largest magnitude, mostly by less
/// than a thirtieth of the range. All values must be finite.
///
/// # Panics
/// If the values are not whole blocks.
pub fn quantize_int4(values: &[f32], block: BlockSize) -> (Vec<i8>, Vec<u32>) {
    let b = block.get();
    let (area, group) = (b * b, int4_group(b));
    assert!(values.len().is_multiple_of(area), "values must be [nnz, b, b]");
    let (mut bytes, mut scales) = (vec![0; values.len() / 2], vec![0; values.len() / group]);
    let blocks = values.par_chunks_exact(area);
    let to = bytes.par_chunks_exact_mut(area / 2).zip(scales.par_chunks_exact_mut(area / group));
    blocks.zip(to).for_each(|(values, (bytes, scales))| {
        for (at, scale) in scales.iter_mut().enumerate() {
            let (first, col) = (at / b * group, at % b);
            let mut column = [0.0; GROUP];
            for (row, to) in column[..group].iter_mut().enumerate() {
                *to = values[(first + row) * b + col];
            }
            let column = &column[..group];
            *scale = best_scale(column);
            let (low, step) = low_and_step(*scale);
            for (row, &value) in column.iter().enumerate() {
                let row = first + row;
                let at = (row / OCTET * b + col) * 4 + row % OCTET / 2;
                bytes[at] |= ((nearest(value, low, step) as u8) << (row % 2 * 4)) as i8;
            }
        }
    });
    (bytes, scales)
}

/// The packed values `[nnz, b, b]` that [`quantize_int4`] made bytes and scales of, rounded.
///
/// # Panics
/// If these are not of whole blocks.
pub fn dequantize_int4(bytes: &[i8], scales: &[u32], block: BlockSize) -> Vec<f32> {
    let b = block.get();
    let (area, group) = (b * b, int4_group(b));
    assert!((2 * bytes.len()).is_multiple_of(area), "bytes must be [nnz, b / 8, b, 4]");
    assert_eq!(scales.len(), 2 * bytes.len() / group, "scales must be [nnz, b / min(b, 32), b]");
    let mut values = vec![0.0; 2 * bytes.len()];
    let from = bytes.par_chunks_exact(area / 2).zip(scales.par_chunks_exact(area / group));
    values
        .par_chunks_exact_mut(area)
        .zip(from)
        .for_each(|(to, (bytes, scales))| widen_block(bytes, scales, b, to));
    values
}

/// The integer whose value is nearest.
#[inline(always)]
fn nearest(value: f32, low: f32, step: f32) -> f32 {
    if step == 0.0 { 0.0 } else { ((value - low) / step).round_ties_even().clamp(0.0, TOP) }
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
        let (low, step) = low_and_step(scale);
        let errors = values.iter().map(|&value| value - (low + step * nearest(value, low, step)));
        errors.map(|error| error * error).sum()
    };
    let scales = CUTS.iter().flat_map(|&below| CUTS.map(|above| scale([below, above])));
    let best = scales.map(|scale| (error(scale), scale)).min_by(|a, b| a.0.total_cmp(&b.0));
    best.expect("there are some").1
}

/// Writes a block in f32.
///
/// # Shapes
/// - `bytes`: `[b / 8, b, 4]`, `scales`: `[b / min(b, 32), b]`, `to`: `[b, b]`
#[inline(always)]
pub(super) fn widen_block(bytes: &[i8], scales: &[u32], b: usize, to: &mut [f32]) {
    let octets = int4_group(b) / OCTET;
    let words = bytes.as_chunks::<4>().0.chunks_exact(b);
    for (octet, (words, rows)) in words.zip(to.chunks_exact_mut(OCTET * b)).enumerate() {
        let scales = &scales[octet / octets * b..][..b];
        for (row, to) in rows.chunks_exact_mut(b).enumerate() {
            for ((to, word), &scale) in to.iter_mut().zip(words).zip(scales) {
                let word = u32::from_le_bytes(word.map(|byte| byte as u8));
                let (low, step) = low_and_step(scale);
                *to = low + step * (word >> (4 * row) & 15) as i32 as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every value comes back within its bound, in blocks of all sizes: zeros, random ones, few that are far out, large ones, ones far
    /// from zero, equal ones.
    #[test]
    fn values_come_back_within_their_bound() {
        for block in BlockSize::ALL {
            let b = block.get();
            let (group, area) = (int4_group(b), b * b);
            let kinds: [&dyn Fn(usize) -> f32; 6] = [
                &|_| 0.0,
                &|at| ((at * 7919) % 1000) as f32 / 1000.0 - 0.5,
                &|at| if at % 37 == 0 { -3.0 } else { 1e-3 * (at % 5) as f32 },
                &|at| 1e5 * ((at * 31) % 17) as f32,
                &|at| 100.0 + 1e-3 * (at % 7) as f32,
                &|_| -0.3,
            ];
            let values: Vec<f32> =
                kinds.iter().flat_map(|kind| (0..area).map(|at| kind(at))).collect();
            let (bytes, scales) = quantize_int4(&values, block);
            assert_eq!((bytes.len(), scales.len()), (values.len() / 2, values.len() / group));
            let back = dequantize_int4(&bytes, &scales, block);
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
        let (bytes, scales) = quantize_int4(&values, block);
        assert_eq!(dequantize_int4(&bytes, &scales, block), values);
    }
}
