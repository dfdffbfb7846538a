//! Rows and blocks in pairs of bf16.
//!
//! A *row of pairs* is a row in bf16; each word has the pair of two consecutive elements. A *pair of rows* is two rows in
//! bf16, interleaved; each word has the pair of the two elements of a column.

use std::arch::x86_64::{
    __m256bh, __m256i, _mm256_storeu_si256, _mm512_cvtneps_pbh, _mm512_loadu_ps,
};
use std::mem::transmute;
use std::ops::Range;
use std::slice::from_raw_parts_mut;

use half::bf16;
use half::slice::HalfFloatSliceExt;

use crate::cpu::transpose::transpose;
use crate::cpu::values::{Values, rounded};

/// Largest side of a block.
const MAX_SIDE: usize = 128;

/// Writes a row of pairs of the elements `at`, with zeros behind them.
///
/// # Panics
/// If `to` is too short.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::cpu) fn write_row(x: Values<'_>, at: Range<usize>, to: &mut [f32]) {
    // SAFETY: twice the number of elements at half the size, and all bits are valid.
    let to = unsafe { from_raw_parts_mut(to.as_mut_ptr().cast(), 2 * to.len()) };
    halves(x, at, to);
}

/// Writes a pair of rows: the elements `first`, and those of a second row if there is one, with zeros behind both.
///
/// # Panics
/// If `to` is too short, or longer than the side of a block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::cpu) fn write_pair_of_rows(
    x: Values<'_>,
    first: Range<usize>,
    second: Option<Range<usize>>,
    to: &mut [f32],
) {
    let (mut upper, mut lower) = ([0; MAX_SIDE], [0; MAX_SIDE]);
    let (upper, lower) = (&mut upper[..to.len()], &mut lower[..to.len()]);
    halves(x, first, upper);
    halves(x, second.unwrap_or(0..0), lower);
    for ((to, &upper), &lower) in to.iter_mut().zip(&*upper).zip(&*lower) {
        *to = f32::from_bits(u32::from(upper) | u32::from(lower) << 16);
    }
}

/// Writes the first `depth` rows of block `slot` `[b, b]`, or of its transpose, as pairs of rows. An odd one has a row of
/// zeros as its second.
///
/// # Shapes
/// - `to`: `[b / 2, b]` words, of which the rows up to `depth` are written
/// - `room`: two blocks
///
/// # Panics
/// If a slice is too short.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::cpu) fn write_block(
    values: Values<'_>,
    slot: usize,
    transposed: bool,
    [b, depth]: [usize; 2],
    to: &mut [f32],
    room: &mut [f32],
) {
    let area = b * b;
    let at = slot * area..(slot + 1) * area;
    if let (Values::Bf16(values), true) = (values, transposed) {
        transpose(words(&values[at], &mut room[..area / 2]), to, [b, b / 2]);
        if depth % 2 == 1 {
            for word in &mut to[depth / 2 * b..][..b] {
                *word = f32::from_bits(word.to_bits() & 0xffff);
            }
        }
        return;
    }
    let (block, wide) = room.split_at_mut(area);
    let rows = match values {
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
    for (k, to) in (0..depth).step_by(2).zip(to.chunks_exact_mut(b)) {
        let second = (k + 1 < depth).then_some((k + 1) * b..(k + 2) * b);
        write_pair_of_rows(rows, k * b..(k + 1) * b, second, to);
    }
}

/// Writes the elements `at` in bf16, and zeros behind them. Those of `f32` are rounded to nearest, ties to even, except
/// that subnormal numbers may become zero.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn halves(x: Values<'_>, at: Range<usize>, to: &mut [u16]) {
    let (to, beyond) = to.split_at_mut(at.len());
    beyond.fill(0);
    match x {
        Values::Bf16(x) => to.copy_from_slice(x[at].reinterpret_cast()),
        Values::F32(x) => {
            let ((from, rest), (to, to_rest)) = (x[at].as_chunks::<16>(), to.as_chunks_mut::<16>());
            for (from, to) in from.iter().zip(to) {
                // SAFETY: both hold sixteen elements.
                unsafe {
                    let halves = _mm512_cvtneps_pbh(_mm512_loadu_ps(from.as_ptr()));
                    let halves = transmute::<__m256bh, __m256i>(halves);
                    _mm256_storeu_si256(to.as_mut_ptr().cast(), halves);
                }
            }
            rest.iter().zip(to_rest).for_each(|(from, to)| *to = rounded(*from).to_bits());
        }
        _ => unreachable!("features and widened blocks are f32 or bf16"),
    }
}

/// A block of bf16 as words; in `room`, if its memory is not aligned as words are.
fn words<'a>(block: &'a [bf16], room: &'a mut [f32]) -> &'a [f32] {
    // SAFETY: any bits are valid.
    if let ([], words, []) = unsafe { block.align_to() } {
        return words;
    }
    for (to, pair) in room.iter_mut().zip(block.as_chunks::<2>().0) {
        *to = f32::from_bits(u32::from(pair[0].to_bits()) | u32::from(pair[1].to_bits()) << 16);
    }
    room
}
