//! Products of pairs of bf16 in Intel's matrix unit AMX (Linux on x86-64).
//!
//! One instruction multiplies a tile of 16 rows by 16 pairs of the left factor by a tile of 16 pairs by 16 columns of the
//! right one, and adds the product to 16 x 16 sums in f32. Four tiles of sums, 32 x 32, stay in registers. A tile is loaded
//! with the distance of its rows, so that panels and blocks of pairs are read as dot products read them; only the left
//! factor of a weight gradient needs another layout. What is left of the rows is computed with tiles of fewer rows.
//!
//! The unit treats subnormal numbers as zero, in inputs and sums, and rounds each sum to nearest.
//!
//! The instructions are described in chapter 3 of Intel's Architecture Instruction Set Extensions reference. On machines
//! without the unit, the tests run the same machine code in an emulator of these instructions.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod gradient;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod nowhere;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod product;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod registers;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use self::gradient::block_product;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(super) use self::nowhere::{block_product, is_available, macro_kernel};
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use self::product::macro_kernel;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use self::registers::is_available;
#[cfg(all(feature = "testing", target_arch = "x86_64", target_os = "linux"))]
pub use self::registers::{amx_uses_here, assume_amx};

/// Rows of a tile, and words of each.
pub(super) const SIDE: usize = 16;

/// Side of the square of sums that stays in registers. Blocks must be multiples of it.
pub(super) const SQUARE: usize = 2 * SIDE;
