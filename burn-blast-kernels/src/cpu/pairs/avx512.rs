//! The dot product as arithmetic of tiles, and its detection.

use std::arch::x86_64::{
    __cpuid, __m512, __m512bh, _mm256_storeu_ps, _mm512_add_ps, _mm512_castps512_ps256,
    _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps,
    _mm512_stream_ps,
};
use std::mem::transmute;

use crate::cpu::arithmetic::{Arithmetic, TileLoop, Words};

/// Dot products of pairs.
struct Pairs;

// SAFETY, in all functions: only `run` uses this type, where the instructions exist.
impl Arithmetic for Pairs {
    type Vector = __m512;
    const WORDS: Words = Words::Pair;

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
    fn multiply_add(left: __m512, right: __m512, sum: __m512) -> __m512 {
        unsafe {
            let pairs = |vector| transmute::<__m512, __m512bh>(vector);
            _mm512_dpbf16_ps(sum, pairs(left), pairs(right))
        }
    }

    #[inline(always)]
    unsafe fn load<const HALF: bool>(ptr: *const f32) -> __m512 {
        unsafe { if HALF { _mm512_maskz_loadu_ps(0xff, ptr) } else { _mm512_loadu_ps(ptr) } }
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

pub(super) fn is_available() -> bool {
    let vendor = __cpuid(0);
    let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat();
    name == b"AuthenticAMD"
        && is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("fma")
}

/// # Safety
/// As [`TileLoop::run`], on a processor that has dot products.
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,fma")]
pub(in crate::cpu) unsafe fn run(tiles: impl TileLoop) {
    // SAFETY: the caller's.
    unsafe { tiles.run::<Pairs>() };
}
