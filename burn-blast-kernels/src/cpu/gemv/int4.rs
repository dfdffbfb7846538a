//! The product of a single row with 4-bit integers.
//!
//! Each group of 32 elements of the row is rounded to integers of 16 bits with one scale, so that a product of a group with a column
//! is a sum of integers, which is exact and the same on every processor: by AVX512-VNNI, AVX2, or portable code. What the low
//! ends of a group add is their product with the sum of its elements.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use crate::cpu::Values;
use crate::cpu::int4::{OCTET, group_len, group_rows, low_and_step, scale_at, word_at};
use crate::cpu::operand::SparseOperand;

/// Bytes ahead of the current word that are prefetched. Measured on Zen 4.
const AHEAD: usize = 2048;

/// Largest integer of a rounded element.
const LARGEST: f32 = 32767.0;

/// A number so large that the bits of `x + ROUND` end with `x` rounded to an integer, for small `x`.
const ROUND: f32 = 12_582_912.0;

/// A row of rounded elements, with zeros up to a whole block.
pub(super) struct Row {
    /// The elements of each eight, as pairs of the first and fifth, the second and sixth, and so on.
    octets: Vec<[i32; 4]>,
    groups: Vec<Group>,
    column: Column,
}

/// Elements that share a scale.
#[derive(Clone, Copy)]
struct Group {
    /// NaN, if an element is not finite.
    scale: f32,
    /// Of the rounded elements.
    sum: f32,
}

impl Row {
    /// Rounds a row that multiplies blocks of side `b`.
    pub(super) fn new(x: &[f32], b: usize) -> Self {
        let group = group_rows(b);
        let padded = x.len().next_multiple_of(b);
        let mut octets = Vec::with_capacity(padded / OCTET);
        let mut groups = Vec::with_capacity(padded / group);
        for start in (0..padded).step_by(group) {
            let x = &x[start.min(x.len())..x.len().min(start + group)];
            let bits = |x: &f32| (x.to_bits() & (u32::MAX >> 1)) as i32;
            let largest = f32::from_bits(x.iter().map(bits).max().unwrap_or(0) as u32);
            let inverse = LARGEST / largest;
            // So small a group that its inverse overflows is as good as zero.
            let inverse = if inverse.is_finite() { inverse } else { 0.0 };
            let mut rounded = [0; 32];
            // What is not finite makes the scale NaN.
            for (to, x) in rounded.iter_mut().zip(x).filter(|_| largest.is_finite()) {
                *to = (x * inverse + ROUND).to_bits() as i32 - ROUND.to_bits() as i32;
            }
            let scale = if largest.is_finite() { largest / LARGEST } else { f32::NAN };
            groups.push(Group { scale, sum: scale * rounded.iter().sum::<i32>() as f32 });
            let pair = |low: i32, high: i32| (low & 0xffff) | high << 16;
            let eights = rounded[..group].as_chunks::<OCTET>().0;
            octets.extend(eights.iter().map(|x| [0, 1, 2, 3].map(|at| pair(x[at], x[at + 4]))));
        }
        Self { octets, groups, column: best_column(b) }
    }

    /// Writes the sums of a block column of a weight of 4-bit integers.
    pub(super) fn column(&self, weight: &SparseOperand<'_>, col: usize, sums: &mut [f32]) {
        sums.fill(0.0);
        // SAFETY: the function is of this processor's instruction set, and of blocks of this side.
        unsafe { (self.column)(self, weight, col, sums) };
    }
}

/// Adds the products of a block column.
type Column = unsafe fn(&Row, &SparseOperand<'_>, usize, &mut [f32]);

/// The fastest [`column`] of this machine for blocks of side `b`.
fn best_column(b: usize) -> Column {
    columns(b).remove(0)
}

/// Every [`column`] of this machine for blocks of side `b`, the fastest first.
fn columns(b: usize) -> Vec<Column> {
    let mut columns: Vec<Column> = vec![column::<Portable>];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            columns.insert(0, column_avx2);
        }
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vnni")
            && b.is_multiple_of(Avx512::COLS)
        {
            columns.insert(0, column_avx512);
        }
    }
    columns
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn column_avx512(x: &Row, weight: &SparseOperand<'_>, col: usize, sums: &mut [f32]) {
    // SAFETY: the features of this function.
    unsafe { column::<Avx512>(x, weight, col, sums) };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn column_avx2(x: &Row, weight: &SparseOperand<'_>, col: usize, sums: &mut [f32]) {
    // SAFETY: the features of this function.
    unsafe { column::<Avx2>(x, weight, col, sums) };
}

/// Adds the products of a block column.
///
/// # Safety
/// This machine must have the instructions of `L`, and `b` be a multiple of its columns.
#[inline(always)]
unsafe fn column<L: Lanes>(x: &Row, weight: &SparseOperand<'_>, col: usize, sums: &mut [f32]) {
    let Values::Int4 { bytes, .. } = weight.values else { unreachable!("of 4-bit integers") };
    let b = weight.b;
    let (groups, octets, len) = (b / group_rows(b), group_rows(b) / OCTET, group_len(b));
    for entry in weight.entries(col) {
        let (block, slot) = weight.entry(entry);
        for group in 0..groups {
            let at = block * groups + group;
            let (pairs, part) = (&x.octets[at * octets..][..octets], x.groups[at]);
            let bytes = &bytes[(slot * groups + group) * len..][..len];
            let sums = &mut sums[..b];
            for first in (0..b).step_by(L::COLS) {
                let at = |byte: usize| bytes[byte..].as_ptr();
                // SAFETY: the caller's; there are words, scales and sums of all columns.
                unsafe {
                    let [mut one, mut two] = [L::zero(); 2];
                    for (octet, &[first_pair, second, third, fourth]) in pairs.iter().enumerate() {
                        let words = L::load(at(word_at(b, octet, first)));
                        one = L::dot::<0>(words, first_pair, one);
                        two = L::dot::<4>(words, second, two);
                        one = L::dot::<8>(words, third, one);
                        two = L::dot::<12>(words, fourth, two);
                    }
                    let (scales, sums) = (L::load(at(scale_at(b, first))), &mut sums[first..]);
                    L::add_scaled(L::add(one, two), part, scales, sums.as_mut_ptr());
                }
            }
        }
    }
}

/// Vectors of 32-bit words, one for each column.
///
/// # Safety
/// This machine must have the instructions. [`columns`] asks.
trait Lanes {
    type Vector: Copy;
    /// Columns of a vector.
    const COLS: usize;

    unsafe fn zero() -> Self::Vector;
    /// # Safety
    /// The words must be readable.
    unsafe fn load(words: *const i8) -> Self::Vector;
    /// `sum + n · low + m · high`, where `n` and `m` are the four bits from `SHIFT` on and from `SHIFT + 16` on, and `pair` has
    /// the integers `low` and `high` of 16 bits.
    unsafe fn dot<const SHIFT: u32>(
        words: Self::Vector,
        pair: i32,
        sum: Self::Vector,
    ) -> Self::Vector;
    unsafe fn add(one: Self::Vector, two: Self::Vector) -> Self::Vector;
    /// Adds `integers · step · scale + low · sum` to `sums`.
    ///
    /// # Safety
    /// As many sums as columns must be readable and writable.
    unsafe fn add_scaled(integers: Self::Vector, x: Group, scales: Self::Vector, sums: *mut f32);
}

/// The bits of two integers of 4 bits in the halves of a word.
const NIBBLES: i32 = 0x000f_000f;

/// AVX-512 with dot products of 16-bit integers.
#[cfg(target_arch = "x86_64")]
struct Avx512;

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx512 {
    type Vector = __m512i;
    const COLS: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn load(words: *const i8) -> __m512i {
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(words.wrapping_add(AHEAD));
            _mm512_loadu_si512(words.cast())
        }
    }

    #[inline(always)]
    unsafe fn dot<const SHIFT: u32>(words: __m512i, pair: i32, sum: __m512i) -> __m512i {
        unsafe {
            let shifted = _mm512_srli_epi32::<SHIFT>(words);
            let nibbles = _mm512_and_si512(shifted, _mm512_set1_epi32(NIBBLES));
            _mm512_dpwssd_epi32(sum, nibbles, _mm512_set1_epi32(pair))
        }
    }

    #[inline(always)]
    unsafe fn add(one: __m512i, two: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(one, two) }
    }

    #[inline(always)]
    unsafe fn add_scaled(integers: __m512i, x: Group, scales: __m512i, sums: *mut f32) {
        unsafe {
            let low = _mm512_and_si512(scales, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            let low = _mm512_castsi512_ps(low);
            let step = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(scales));
            let step = _mm512_mul_ps(step, _mm512_set1_ps(x.scale));
            let sum = _mm512_fmadd_ps(low, _mm512_set1_ps(x.sum), _mm512_loadu_ps(sums));
            let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(integers), step, sum);
            _mm512_storeu_ps(sums, sum);
        }
    }
}

/// AVX2.
#[cfg(target_arch = "x86_64")]
struct Avx2;

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx2 {
    type Vector = __m256i;
    const COLS: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn load(words: *const i8) -> __m256i {
        unsafe { _mm256_loadu_si256(words.cast()) }
    }

    #[inline(always)]
    unsafe fn dot<const SHIFT: u32>(words: __m256i, pair: i32, sum: __m256i) -> __m256i {
        unsafe {
            let shifted = _mm256_srl_epi32(words, _mm_cvtsi32_si128(SHIFT as i32));
            let nibbles = _mm256_and_si256(shifted, _mm256_set1_epi32(NIBBLES));
            _mm256_add_epi32(sum, _mm256_madd_epi16(nibbles, _mm256_set1_epi32(pair)))
        }
    }

    #[inline(always)]
    unsafe fn add(one: __m256i, two: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(one, two) }
    }

    #[inline(always)]
    unsafe fn add_scaled(integers: __m256i, x: Group, scales: __m256i, sums: *mut f32) {
        unsafe {
            let low = _mm256_and_si256(scales, _mm256_set1_epi32(0xffff_0000_u32 as i32));
            let low = _mm256_castsi256_ps(low);
            let step = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(scales));
            let step = _mm256_mul_ps(step, _mm256_set1_ps(x.scale));
            let sum = _mm256_fmadd_ps(low, _mm256_set1_ps(x.sum), _mm256_loadu_ps(sums));
            let sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(integers), step, sum);
            _mm256_storeu_ps(sums, sum);
        }
    }
}

/// Code for every processor.
struct Portable;

impl Lanes for Portable {
    type Vector = [i32; 8];
    const COLS: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> [i32; 8] {
        [0; 8]
    }

    #[inline(always)]
    unsafe fn load(words: *const i8) -> [i32; 8] {
        // SAFETY: the caller's.
        let bytes = unsafe { words.cast::<[[u8; 4]; 8]>().read() };
        bytes.map(i32::from_le_bytes)
    }

    #[inline(always)]
    unsafe fn dot<const SHIFT: u32>(words: [i32; 8], pair: i32, sum: [i32; 8]) -> [i32; 8] {
        let (low, high) = (i32::from(pair as i16), pair >> 16);
        std::array::from_fn(|at| {
            let nibbles = words[at] >> SHIFT & NIBBLES;
            sum[at] + (nibbles & 0xf) * low + (nibbles >> 16) * high
        })
    }

    #[inline(always)]
    unsafe fn add(one: [i32; 8], two: [i32; 8]) -> [i32; 8] {
        std::array::from_fn(|at| one[at] + two[at])
    }

    #[inline(always)]
    unsafe fn add_scaled(integers: [i32; 8], x: Group, scales: [i32; 8], sums: *mut f32) {
        for (at, (integer, scale)) in integers.into_iter().zip(scales).enumerate() {
            // SAFETY: the caller's.
            let to = unsafe { &mut *sums.add(at) };
            let (low, step) = low_and_step(scale as u32);
            *to += low * x.sum + integer as f32 * (step * x.scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::int4::little_endian;
    use crate::cpu::quantize_int4;
    use crate::{BlockPattern, BlockSize, MatrixShape};

    fn number(at: usize) -> f32 {
        ((at * 7919) % 255) as f32 / 127.0 - 1.0
    }

    /// Every way is within its bound of the exact sums: in blocks of all sizes, ragged on both sides, in empty columns, with a
    /// group of zeros and one of numbers near zero.
    #[test]
    fn columns_are_near_the_oracle_in_every_instruction_set() {
        for block in BlockSize::ALL {
            let b = block.get();
            for density in [0.0, 0.4, 1.0] {
                let shape = MatrixShape::new(3 * b + 5, 2 * b + 3).unwrap();
                let pattern = BlockPattern::random(shape, block, density, 7);
                let dense: Vec<f32> = (0..pattern.value_count()).map(number).collect();
                let bytes = quantize_int4(&dense, &pattern);
                let values = Values::Int4 { bytes: &bytes, block };
                let mut exact = vec![0.0; dense.len()];
                for (slot, to) in exact.chunks_exact_mut(b * b).enumerate() {
                    values.widen(slot, to);
                }
                let size = |at: usize| [1.0, 0.0, 1e-37, 1e6][at / group_rows(b) % 4];
                let x: Vec<f32> = (0..shape.rows()).map(|at| size(at) * number(at + 3)).collect();
                let weight = SparseOperand::forward(values, &pattern);
                let row = Row::new(&x, b);
                for (way, column) in columns(b).into_iter().enumerate() {
                    let row =
                        Row { column, octets: row.octets.clone(), groups: row.groups.clone() };
                    for col in 0..pattern.block_cols() {
                        let mut sums = vec![f32::NAN; b];
                        row.column(&weight, col, &mut sums);
                        for (at, &sum) in sums.iter().enumerate() {
                            let (oracle, bound) = oracle(&x, &weight, &exact, col, at);
                            let apart = (f64::from(sum) - oracle).abs();
                            assert!(apart <= bound, "{b} {density} {way}: {apart} above {bound}");
                        }
                    }
                }
            }
        }
    }

    /// The exact sum of a column, and how far a product may be from it: half a step of each rounded element, and the rounding of
    /// the sum over groups.
    fn oracle(
        x: &[f32],
        weight: &SparseOperand<'_>,
        exact: &[f32],
        col: usize,
        at: usize,
    ) -> (f64, f64) {
        let (b, group) = (weight.b, group_rows(weight.b));
        let (mut sum, mut bound) = (0.0, f64::from(f32::MIN_POSITIVE));
        for entry in weight.entries(col) {
            let (block, slot) = weight.entry(entry);
            for row in 0..b.min(x.len() - block * b) {
                let first = block * b + row / group * group;
                let elements = x[first..x.len().min(first + group)].iter();
                let largest = elements.fold(0f32, |a, b| a.max(b.abs()));
                let step = largest / LARGEST;
                let (w, x) = (f64::from(exact[(slot * b + row) * b + at]), x[block * b + row]);
                sum += w * f64::from(x);
                // The parts of a value may be larger than it is.
                let Values::Int4 { bytes, .. } = weight.values else { unreachable!() };
                let bytes = &bytes[(slot * b + row) / group * group_len(b) + scale_at(b, at)..];
                let (low, grid) = low_and_step(little_endian(&bytes.as_chunks::<4>().0[0]));
                let parts = f64::from(low.abs() + 15.0 * grid) * f64::from(x.abs());
                let rounding = f64::from(f32::EPSILON) * (weight.entries(col).len() + 8) as f64;
                bound += w.abs() * f64::from(step) * 0.51 + rounding * parts;
                if (LARGEST / largest).is_infinite() {
                    bound += w.abs() * f64::from(x.abs());
                }
            }
        }
        (sum, bound)
    }

    #[test]
    fn what_is_not_finite_makes_the_sums_nan() {
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let block = BlockSize::new(16).unwrap();
            let pattern = BlockPattern::dense(MatrixShape::new(32, 16).unwrap(), block);
            let bytes = quantize_int4(&[1.0; 512], &pattern);
            let weight = Values::Int4 { bytes: &bytes, block };
            let weight = SparseOperand::forward(weight, &pattern);
            let mut row = vec![1.0; 32];
            row[16..].fill(x);
            for column in columns(16) {
                let row = Row { column, ..Row::new(&row, 16) };
                let mut sums = [0.0; 16];
                row.column(&weight, 0, &mut sums);
                assert!(sums.iter().all(|sum| sum.is_nan()));
            }
        }
    }
}
