//! Dot products as arithmetic of tiles, and their detection.

use std::arch::x86_64::{
    __cpuid, __m512, __m512bh, _mm256_storeu_ps, _mm512_add_ps, _mm512_castps_si512,
    _mm512_castps512_ps256, _mm512_castsi512_ps, _mm512_cvtepi32_ps, _mm512_dpbf16_ps,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps,
    _mm512_storeu_ps, _mm512_stream_ps,
};
use std::mem::transmute;

use crate::cpu::arithmetic::{Arithmetic, TileLoop, Words};

/// Dot products of pairs.
struct Pairs;

/// Dot products of quads. The words of a vector of sums are 32-bit integers.
struct Quads;

/// Arithmetic in registers of 512 bits.
// SAFETY, in all functions: only `run_pairs` and `run_quads` use these types, where the instructions exist.
macro_rules! arithmetic {
    (
        $type:ident, $words:ident,
        ($left:ident, $right:ident, $sum:ident) => $multiply_add:expr,
        ($integers:ident, $scale:ident, $total:ident) => $add_scaled:expr
    ) => {
        impl Arithmetic for $type {
            type Vector = __m512;
            const WORDS: Words = Words::$words;

            #[inline(always)]
            fn lanes() -> usize {
                16
            }

            #[inline(always)]
            fn splat(word: f32) -> __m512 {
                unsafe { _mm512_set1_ps(word) }
            }

            #[inline(always)]
            fn add(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_add_ps(a, b) }
            }

            #[inline(always)]
            fn multiply_add($left: __m512, $right: __m512, $sum: __m512) -> __m512 {
                unsafe { $multiply_add }
            }

            #[inline(always)]
            fn add_scaled($integers: __m512, $scale: __m512, $total: __m512) -> __m512 {
                $add_scaled
            }

            #[inline(always)]
            unsafe fn load<const HALF: bool>(ptr: *const f32) -> __m512 {
                unsafe {
                    if HALF { _mm512_maskz_loadu_ps(0xff, ptr) } else { _mm512_loadu_ps(ptr) }
                }
            }

            #[inline(always)]
            unsafe fn store<const HALF: bool>(ptr: *mut f32, vector: __m512) {
                unsafe {
                    if HALF {
                        _mm256_storeu_ps(ptr, _mm512_castps512_ps256(vector));
                    } else {
                        _mm512_storeu_ps(ptr, vector);
                    }
                }
            }

            #[inline(always)]
            unsafe fn stream(ptr: *mut f32, vector: __m512) {
                unsafe { _mm512_stream_ps(ptr, vector) };
            }
        }
    };
}

arithmetic!(
    Pairs, Pair,
    (left, right, sum) => {
        let pairs = |vector| transmute::<__m512, __m512bh>(vector);
        _mm512_dpbf16_ps(sum, pairs(left), pairs(right))
    },
    (_integers, _scale, _sum) => unreachable!("sums are no integers")
);

arithmetic!(
    Quads, Quad,
    (left, right, sum) => {
        let [sum, left, right] = [sum, left, right].map(|vector| _mm512_castps_si512(vector));
        _mm512_castsi512_ps(_mm512_dpbusd_epi32(sum, left, right))
    },
    (integers, scale, sum) => unsafe {
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_castps_si512(integers)), scale, sum)
    }
);

/// The instructions of AVX-512 that all tiles may use.
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("fma")
}

pub(in crate::cpu) fn has_pairs() -> bool {
    is_x86_feature_detected!("avx512bf16") && has_avx512()
}

/// Whether pairs are faster than `f32`.
pub(super) fn pairs_are_fast() -> bool {
    let vendor = __cpuid(0);
    let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat();
    name == b"AuthenticAMD"
}

pub(super) fn has_quads() -> bool {
    is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vbmi") && has_avx512()
}

/// # Safety
/// As [`TileLoop::run`], on a processor that has dot products of pairs.
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,fma")]
pub(in crate::cpu) unsafe fn run_pairs(tiles: impl TileLoop) {
    // SAFETY: the caller's.
    unsafe { tiles.run::<Pairs>() };
}

/// # Safety
/// As [`TileLoop::run`], on a processor that has dot products of quads.
#[target_feature(enable = "avx512vnni,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,fma")]
pub(in crate::cpu) unsafe fn run_quads(tiles: impl TileLoop) {
    // SAFETY: the caller's.
    unsafe { tiles.run::<Quads>() };
}
