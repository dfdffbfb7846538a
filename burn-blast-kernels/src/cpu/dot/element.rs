//! The types that become pairs, sixteen elements at a time.

use std::arch::x86_64::{
    __m256bh, __m256i, __m512bh, __m512i, _mm256_loadu_si256, _mm256_storeu_si256,
    _mm512_castsi256_si512, _mm512_cvtne2ps_pbh, _mm512_cvtneps_pbh, _mm512_inserti64x4,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_permutexvar_epi16, _mm512_storeu_si512,
};
use std::mem::{MaybeUninit, transmute};

use half::bf16;

use crate::cpu::values::rounded;

/// Elements that are converted at a time.
pub(super) const LANES: usize = 16;

/// An element that is bf16 or becomes it.
pub(in crate::cpu) trait Element: Copy {
    fn rounded(self) -> bf16;

    /// # Safety
    /// The processor must have AVX512-BF16.
    unsafe fn round_lanes(from: &[Self; LANES], to: &mut [MaybeUninit<bf16>; LANES]);

    /// Writes the words of elements of two rows.
    ///
    /// # Safety
    /// The processor must have AVX512-BF16.
    unsafe fn interleave_lanes(
        first: &[Self; LANES],
        second: &[Self; LANES],
        to: &mut [f32; LANES],
    );
}

impl Element for bf16 {
    #[inline(always)]
    fn rounded(self) -> bf16 {
        self
    }

    #[inline(always)]
    unsafe fn round_lanes(from: &[bf16; LANES], to: &mut [MaybeUninit<bf16>; LANES]) {
        *to = from.map(MaybeUninit::new);
    }

    #[inline(always)]
    unsafe fn interleave_lanes(
        first: &[bf16; LANES],
        second: &[bf16; LANES],
        to: &mut [f32; LANES],
    ) {
        // SAFETY: the arrays have the size of the registers; the rest is the caller's.
        unsafe {
            let first = _mm512_castsi256_si512(_mm256_loadu_si256(first.as_ptr().cast()));
            let both = _mm512_inserti64x4::<1>(first, _mm256_loadu_si256(second.as_ptr().cast()));
            store_words(both, to);
        }
    }
}

impl Element for f32 {
    #[inline(always)]
    fn rounded(self) -> bf16 {
        rounded(self)
    }

    #[inline(always)]
    unsafe fn round_lanes(from: &[f32; LANES], to: &mut [MaybeUninit<bf16>; LANES]) {
        // SAFETY: the arrays have the size of the registers; the rest is the caller's.
        unsafe {
            let halves = _mm512_cvtneps_pbh(_mm512_loadu_ps(from.as_ptr()));
            let halves = transmute::<__m256bh, __m256i>(halves);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), halves);
        }
    }

    #[inline(always)]
    unsafe fn interleave_lanes(first: &[f32; LANES], second: &[f32; LANES], to: &mut [f32; LANES]) {
        // SAFETY: the arrays have the size of the registers; the rest is the caller's.
        unsafe {
            let [first, second] = [first, second].map(|row| _mm512_loadu_ps(row.as_ptr()));
            let both = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first));
            store_words(both, to);
        }
    }
}

/// Order of the elements of two rows in their words.
static INTERLEAVED: [u16; 2 * LANES] = {
    let (mut order, mut at) = ([0; 2 * LANES], 0);
    while at < 2 * LANES {
        order[at] = (at / 2 + at % 2 * LANES) as u16;
        at += 1;
    }
    order
};

/// Writes the words of two rows, of which the first is in the lower half.
///
/// # Safety
/// The processor must have AVX512-BW.
#[inline(always)]
unsafe fn store_words(both: __m512i, to: &mut [f32; LANES]) {
    // SAFETY: the arrays have the size of the register; the rest is the caller's.
    unsafe {
        let order = _mm512_loadu_si512(INTERLEAVED.as_ptr().cast());
        _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_permutexvar_epi16(order, both));
    }
}
