//! Products of bf16 by the dot-product instruction of AVX512-BF16, `vdpbf16ps`.
//!
//! One instruction multiplies the pairs of two vectors and adds both products to the sums in f32: twice the multiply-adds
//! of an f32 instruction. Zen 4 and later run it at the rate of f32 multiply-adds, so a product takes half the time. Intel
//! processors run it at half that rate, where nothing is gained; those with AMX have that. So it is used on AMD only.
//!
//! The instruction rounds each sum to nearest and treats subnormal numbers as zero, in inputs and sums. It is described in
//! Intel's Software Developer's Manual, volume 2, under VDPBF16PS.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod element;
#[cfg(target_arch = "x86_64")]
mod layout;
#[cfg(not(target_arch = "x86_64"))]
mod nowhere;
mod switch;

#[cfg(target_arch = "x86_64")]
use self::avx512::is_available;
#[cfg(target_arch = "x86_64")]
pub(super) use self::avx512::run;
#[cfg(target_arch = "x86_64")]
pub(super) use self::layout::{round, write_block, write_pairs_of_rows, write_rows_of_pairs};
#[cfg(not(target_arch = "x86_64"))]
use self::nowhere::is_available;
#[cfg(not(target_arch = "x86_64"))]
pub(super) use self::nowhere::{run, round, write_block, write_pairs_of_rows, write_rows_of_pairs};
pub(super) use self::switch::words_for;
pub use self::switch::{allow_bf16, bf16_allowed, has_dot_products};
