//! Rows and blocks in quads of 8-bit integers.

use std::arch::x86_64::{
    __m512i, _mm_loadu_si128, _mm_storeu_si128, _mm512_abs_ps, _mm512_add_epi32,
    _mm512_castps_si512, _mm512_castsi128_si512, _mm512_cvtepi32_epi8, _mm512_cvtps_epi32,
    _mm512_dpbusd_epi32, _mm512_inserti32x4, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_max_epu32,
    _mm512_mul_ps, _mm512_mullo_epi32, _mm512_permutexvar_epi8, _mm512_reduce_max_epu32,
    _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_si512, _mm512_storeu_si512,
};
use std::ops::Range;
use std::slice::from_raw_parts_mut;

use crate::cpu::values::Values;

/// Largest side of a block.
const MAX_SIDE: usize = 128;

/// Elements of a vector.
const LANES: usize = 16;

/// Added to the integers of the input, which have no sign in the instruction.
const OFFSET: i32 = 128;

/// Largest integer of the input.
const LIMIT: f32 = 127.0;

/// Writes the columns `cols` of the rows `rows` of `x [.., width]` as integers of at most 127 times a scale for each row,
/// which is behind them. Rounds to nearest. A row with NaN has the scale NaN.
///
/// # Shapes
/// - `to`: `[rows, b / 4 + 1]` words
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(in crate::cpu) fn write_rows_of_quads(
    x: Values<'_>,
    width: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    b: usize,
    to: &mut [f32],
) {
    // Behind the columns are zeros, also as far as a vector reaches beyond a block of 8.
    let mut wide = [0.0; MAX_SIDE];
    for (row, to) in rows.zip(to.chunks_exact_mut(b / 4 + 1)) {
        x.widen_at(row * width + cols.start, &mut wide[..cols.len()]);
        let (quads, scale) = to.split_at_mut(b / 4);
        // SAFETY: four times the number of elements at a quarter of the size, and all bits are valid.
        let quads = unsafe { from_raw_parts_mut(quads.as_mut_ptr().cast::<u8>(), b) };
        scale[0] = quantize(&wide[..b.max(LANES)], quads);
    }
}

/// Writes integers with their offset, and returns their scale. `x` is whole vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn quantize(x: &[f32], to: &mut [u8]) -> f32 {
    let (vectors, _) = x.as_chunks::<LANES>();
    // Magnitudes of floats are ordered as their bits are; NaN is above all numbers.
    let mut largest = _mm512_setzero_si512();
    for vector in vectors {
        // SAFETY: sixteen elements.
        let vector = unsafe { _mm512_loadu_ps(vector.as_ptr()) };
        largest = _mm512_max_epu32(largest, _mm512_castps_si512(_mm512_abs_ps(vector)));
    }
    let largest = f32::from_bits(_mm512_reduce_max_epu32(largest));
    let inverse = if largest > 0.0 { LIMIT / largest } else { 0.0 };
    for (vector, to) in vectors.iter().zip(to.chunks_mut(LANES)) {
        let mut bytes = [0; LANES];
        // SAFETY: sixteen elements of each.
        unsafe {
            let scaled = _mm512_mul_ps(_mm512_loadu_ps(vector.as_ptr()), _mm512_set1_ps(inverse));
            let integers = _mm512_add_epi32(_mm512_cvtps_epi32(scaled), _mm512_set1_epi32(OFFSET));
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(integers));
        }
        to.copy_from_slice(&bytes[..to.len()]);
    }
    largest / LIMIT
}

/// Writes the first `depth` rows of a block `[b, b]` in quads of rows, with zeros as far as a word reaches beyond them, and
/// behind them what [`OFFSET`] adds to each column, negative.
///
/// # Shapes
/// - `to`: `[b / 4, b]` words, of which the rows up to `depth` are written, and `[b]` integers
///
/// # Panics
/// If a slice is too short.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
pub(in crate::cpu) fn write_quad_block(block: &[i8], b: usize, depth: usize, to: &mut [f32]) {
    assert!(block.len() == b * b && depth <= b && to.len() >= b * b / 4 + b);
    for col in (0..b).step_by(LANES) {
        let width = LANES.min(b - col);
        let mut sums = _mm512_setzero_si512();
        for k in (0..depth).step_by(4) {
            let words = quads(block, b, k..depth.min(k + 4), col..col + width);
            sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), words);
            store(words, &mut to[k / 4 * b + col..][..width]);
        }
        let offsets = _mm512_mullo_epi32(sums, _mm512_set1_epi32(-OFFSET));
        store(offsets, &mut to[b * b / 4 + col..][..width]);
    }
}

/// The words of up to four rows and sixteen columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn quads(block: &[i8], b: usize, rows: Range<usize>, cols: Range<usize>) -> __m512i {
    let row = |at: usize| &block[at * b + cols.start..at * b + cols.end];
    // SAFETY: every load is of sixteen bytes.
    unsafe {
        let order = _mm512_loadu_si512(QUADS.as_ptr().cast());
        if rows.len() == 4 && cols.len() == LANES {
            let load = |at: usize| _mm_loadu_si128(row(rows.start + at).as_ptr().cast());
            let bytes = _mm512_castsi128_si512(load(0));
            let bytes = _mm512_inserti32x4::<1>(bytes, load(1));
            let bytes = _mm512_inserti32x4::<2>(bytes, load(2));
            return _mm512_permutexvar_epi8(order, _mm512_inserti32x4::<3>(bytes, load(3)));
        }
        let mut bytes = [[0; LANES]; 4];
        for (to, at) in bytes.iter_mut().zip(rows) {
            to[..cols.len()].copy_from_slice(row(at));
        }
        _mm512_permutexvar_epi8(order, _mm512_loadu_si512(bytes.as_ptr().cast()))
    }
}

/// Order of the bytes of four rows of sixteen in their words.
static QUADS: [u8; 64] = {
    let (mut order, mut at) = ([0; 64], 0);
    while at < 64 {
        order[at] = (at / 4 + at % 4 * LANES) as u8;
        at += 1;
    }
    order
};

#[target_feature(enable = "avx512f")]
fn store(words: __m512i, to: &mut [f32]) {
    if let Ok(to) = <&mut [f32; LANES]>::try_from(&mut *to) {
        // SAFETY: sixteen words.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), words) };
        return;
    }
    let mut all = [0.0; LANES];
    // SAFETY: sixteen words.
    unsafe { _mm512_storeu_si512(all.as_mut_ptr().cast(), words) };
    to.copy_from_slice(&all[..to.len()]);
}
