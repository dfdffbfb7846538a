//! Rows and blocks in pairs of bf16.
//!
//! A *row of pairs* is a row in bf16; each word has the pair of two consecutive elements. A *pair of rows* is two rows in
//! bf16, interleaved; each word has the pair of the two elements of a column.

use std::arch::x86_64::{
    __m512bh, __m512i, _mm512_add_ps, _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_stream_si512,
};
use std::mem::{MaybeUninit, transmute};
use std::ops::Range;
use std::slice::from_raw_parts_mut;

use half::bf16;

use super::element::{Element, LANES};
use crate::cpu::transpose::transpose;
use crate::cpu::values::Values;

const WIDENED: &str = "features and widened blocks are f32 or bf16";

/// Writes the columns `cols` of the rows `rows` of `x [.., width]` as rows of pairs, with zeros behind each.
///
/// # Shapes
/// - `to`: `[rows, words]`
///
/// # Panics
/// If a slice is too short.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::cpu) fn write_rows_of_pairs(
    x: Values<'_>,
    width: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    words: usize,
    to: &mut [f32],
) {
    // SAFETY: twice the number of elements at half the size, and all bits are valid.
    let to = unsafe { from_raw_parts_mut(to.as_mut_ptr().cast(), 2 * to.len()) };
    match x {
        Values::F32(x) => rows_of_pairs(x, width, rows, cols, 2 * words, to),
        Values::Bf16(x) => rows_of_pairs(x, width, rows, cols, 2 * words, to),
        _ => unreachable!("{WIDENED}"),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn rows_of_pairs<E: Element>(
    x: &[E],
    width: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    halves: usize,
    to: &mut [MaybeUninit<bf16>],
) {
    for (row, to) in rows.zip(to.chunks_exact_mut(halves)) {
        let (to, beyond) = to.split_at_mut(cols.len());
        beyond.fill(MaybeUninit::new(bf16::ZERO));
        round(&x[row * width + cols.start..row * width + cols.end], to);
    }
}

/// Writes elements in bf16. `f32` is rounded to nearest, ties to even. Subnormal numbers may become zero.
///
/// # Panics
/// If the lengths differ.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::cpu) fn round<E: Element>(from: &[E], to: &mut [MaybeUninit<bf16>]) {
    assert_eq!(from.len(), to.len());
    let ((from, rest), (to, to_rest)) = (from.as_chunks::<LANES>(), to.as_chunks_mut::<LANES>());
    for (from, to) in from.iter().zip(to) {
        // SAFETY: the features of this function.
        unsafe { E::round_lanes(from, to) };
    }
    for (&from, to) in rest.iter().zip(to_rest) {
        to.write(from.rounded());
    }
}

/// Adds a bias, or nothing if it is empty, to rows of `width` sums, rounds them to bf16 and writes them past the caches, to rows
/// `stride` apart.
///
/// # Safety
/// The rows must be writable and start at cache lines, the width be a multiple of 32, and the bias have `width` elements or none.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::cpu) unsafe fn stream_rounded(
    sums: &[f32],
    width: usize,
    bias: &[f32],
    to: *mut bf16,
    stride: usize,
) {
    for (row, sums) in sums.chunks_exact(width).enumerate() {
        for (at, sums) in sums.as_chunks::<{ 2 * LANES }>().0.iter().enumerate() {
            // SAFETY: the caller's; the chunk has two vectors.
            unsafe {
                let half = |half: usize| {
                    let sums = _mm512_loadu_ps(sums.as_ptr().add(half * LANES));
                    let start = (2 * at + half) * LANES;
                    match bias.get(start..start + LANES) {
                        Some(bias) => _mm512_add_ps(sums, _mm512_loadu_ps(bias.as_ptr())),
                        None => sums,
                    }
                };
                let both = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(half(1), half(0)));
                _mm512_stream_si512(to.add(row * stride + at * 2 * LANES).cast(), both);
            }
        }
    }
}

/// Writes the columns `cols` of the rows `rows` of `x [.., width]` as pairs of rows, with zeros behind each and after an odd
/// row.
///
/// # Shapes
/// - `to`: `[rows / 2, words]`
///
/// # Panics
/// If a slice is too short.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::cpu) fn write_pairs_of_rows(
    x: Values<'_>,
    width: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    words: usize,
    to: &mut [f32],
) {
    match x {
        Values::F32(x) => pairs_of_rows(x, width, rows, cols, words, to),
        Values::Bf16(x) => pairs_of_rows(x, width, rows, cols, words, to),
        _ => unreachable!("{WIDENED}"),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pairs_of_rows<E: Element>(
    x: &[E],
    width: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    words: usize,
    to: &mut [f32],
) {
    let row = |row: usize| &x[row * width + cols.start..row * width + cols.end];
    for (at, to) in rows.clone().step_by(2).zip(to.chunks_exact_mut(words)) {
        let (to, beyond) = to.split_at_mut(cols.len());
        beyond.fill(0.0);
        if at + 1 == rows.end {
            to.iter_mut().zip(row(at)).for_each(|(to, x)| *to = word(x.rounded(), bf16::ZERO));
            continue;
        }
        let (first, first_rest) = row(at).as_chunks::<LANES>();
        let (second, second_rest) = row(at + 1).as_chunks::<LANES>();
        let (to, to_rest) = to.as_chunks_mut::<LANES>();
        for ((to, first), second) in to.iter_mut().zip(first).zip(second) {
            // SAFETY: the features of this function.
            unsafe { E::interleave_lanes(first, second, to) };
        }
        for ((to, first), second) in to_rest.iter_mut().zip(first_rest).zip(second_rest) {
            *to = word(first.rounded(), second.rounded());
        }
    }
}

/// Writes the first `depth` rows of block `slot` `[b, b]`, or of its transpose, as pairs of rows.
///
/// # Shapes
/// - `to`: `[b / 2, b]` words, of which the rows up to `depth` are written
/// - `room`: two blocks
///
/// # Panics
/// If a slice is too short.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::cpu) fn write_pair_block(
    values: Values<'_>,
    slot: usize,
    transposed: bool,
    [b, depth]: [usize; 2],
    to: &mut [f32],
    room: &mut [f32],
) {
    let area = b * b;
    let at = slot * area..(slot + 1) * area;
    let (block, wide) = room.split_at_mut(area);
    let rows = match values {
        // A row of pairs is a column of pairs of rows.
        Values::Bf16(values) if transposed => {
            transpose(words(&values[at], &mut block[..area / 2]), to, [b, b / 2]);
            if depth % 2 == 1 {
                for word in &mut to[depth / 2 * b..][..b] {
                    *word = f32::from_bits(word.to_bits() & 0xffff);
                }
            }
            return;
        }
        Values::F32(values) if transposed => {
            transpose(&values[at], block, [b, b]);
            Values::F32(block)
        }
        Values::F32(values) => Values::F32(&values[at]),
        Values::Bf16(values) => Values::Bf16(&values[at]),
        _ => {
            values.widen(slot, wide);
            if transposed {
                transpose(wide, block, [b, b]);
                Values::F32(block)
            } else {
                Values::F32(wide)
            }
        }
    };
    write_pairs_of_rows(rows, b, 0..depth, 0..b, b, to);
}

fn word(first: bf16, second: bf16) -> f32 {
    f32::from_bits(u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16)
}

/// A block of bf16 as words; in `room`, if its memory is not aligned as words are.
fn words<'a>(block: &'a [bf16], room: &'a mut [f32]) -> &'a [f32] {
    // SAFETY: any bits are valid.
    if let ([], words, []) = unsafe { block.align_to() } {
        return words;
    }
    for (to, pair) in room.iter_mut().zip(block.as_chunks::<2>().0) {
        *to = word(pair[0], pair[1]);
    }
    room
}
