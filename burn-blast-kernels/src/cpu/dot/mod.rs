//! Products by dot-product instructions (x86-64): of bf16 by AVX512-BF16, and of 8-bit integers by AVX512-VNNI.
//!
//! `vdpbf16ps` multiplies the pairs of two vectors and adds both products to the sums in f32: twice the multiply-adds of an
//! f32 instruction. Zen 4 and later run it at the rate of f32 multiply-adds, so a product takes half the time. Intel
//! processors run it at half that rate, where nothing is gained, and those with AMX have the matrix unit. So `vdpbf16ps` is used on AMD's only. It
//! rounds each sum to nearest and treats subnormal numbers as zero, in inputs and sums.
//!
//! `vpdpbusd` multiplies four 8-bit integers each and adds their products to sums of 32 bits: four times the multiply-adds.
//! One factor has no sign, so 128 is added to the input, and what that adds to the sums is subtracted from their start.
//! The sums of a block become f32 when it is done, times the scales of the block and of the input.
//!
//! Intel's Software Developer's Manual, volume 2, describes both instructions. Dot products of Arm (`bfdot`, `sdot`) and of
//! AVX-VNNI are not used.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod element;
#[cfg(not(target_arch = "x86_64"))]
mod nowhere;
#[cfg(target_arch = "x86_64")]
mod pairs;
#[cfg(target_arch = "x86_64")]
mod quads;
mod switch;

#[cfg(target_arch = "x86_64")]
pub(super) use self::avx512::has_pairs;
#[cfg(target_arch = "x86_64")]
use self::avx512::{has_quads, pairs_are_fast};
#[cfg(target_arch = "x86_64")]
pub(super) use self::avx512::{run_pairs, run_quads};
#[cfg(not(target_arch = "x86_64"))]
use self::nowhere::{has_pairs, has_quads, pairs_are_fast};
#[cfg(not(target_arch = "x86_64"))]
pub(super) use self::nowhere::{
    round, run_pairs, run_quads, stream_rounded, write_pair_block, write_pairs_of_rows,
    write_quad_block, write_rows_of_pairs, write_rows_of_quads,
};
#[cfg(target_arch = "x86_64")]
pub(super) use self::pairs::{
    round, stream_rounded, write_pair_block, write_pairs_of_rows, write_rows_of_pairs,
};
#[cfg(target_arch = "x86_64")]
pub(super) use self::quads::{write_quad_block, write_rows_of_quads};
#[cfg(feature = "testing")]
pub use self::switch::prefer_dot_products;
pub use self::switch::{
    allow_bf16, allow_int8, bf16_allowed, has_dot_products, has_integer_dot_products, int8_allowed,
};
pub(super) use self::switch::{rounds_to_integers, words_for, words_for_integers};
