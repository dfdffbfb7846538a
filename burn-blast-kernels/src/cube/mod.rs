//! CubeCL kernels: one source for every GPU runtime.
//!
//! One folder per routine: `base.rs` picks the numbers on the host, `kernel.rs` is the loop nest,
//! `launch.rs` checks the buffers and launches. The routines here are plain register-tile kernels: no tensor
//! cores, no plane operations, at most 16 KiB of shared memory and 256 units a cube, so they run on WebGPU
//! too. The three products also have kernels for tensor cores, in `mma/` and `cmma/`, which a launch takes where
//! the device, the data type, the block and the sides allow it; in f32 only after [`allow_tf32`].
//!
//! | routine | serves | one cube computes |
//! |---|---|---|
//! | [`spmm()`] | forward, with an [`Epilogue`] | rows of one block column of `y` |
//! | [`spmm_int8`] | forward with integer weights, few rows | a piece of one block column |
//! | [`gated_few_rows`] | gate and up of a gated block, few rows | a piece of one block column of both |
//! | [`spmm_t`] | input gradient | rows of one block row of `dx` |
//! | [`gated_hidden`], [`gated_hidden_backward`] | gate and up of a gated block | rows of one block column of both |
//! | [`sddmm()`] | weight gradient | one kept block, or a quarter of it at block 128 |
//! | [`grad_block_norms`] | growth scores | one block of the grid |
//! | [`block_norms`] | pruning scores | one kept block |
//! | [`pack`], [`unpack`] | dense ⇄ packed | elements in a row |
//!
//! A forward product with few rows, as in decoding, takes the kernels in `gemv/`, which read the values once:
//! [`serves_few_rows`] and [`serves_gated_few_rows`] say when.
//!
//! # Supported
//! Blocks of 8 to 128; f32, f16 and bf16 storage where the device has it; ragged sizes; empty patterns;
//! zero rows. Sums of one launch are kept in f32 and rounded once, when stored, as the hidden features of a gated block
//! are between gate and down. Factors are not rounded, unless [`allow_tf32`] says so.
//! Nothing depends on the order in which cubes run, so every result is the same from launch to launch, with one
//! exception: where `autotune` measures anew and picks another height of the tile, long lines are cut elsewhere, and
//! their sums may differ in the last bits.
//!
//! # Refused, by [`CubeError`]
//! Any other data type, and a type the device cannot store; devices with too little shared memory or too few
//! bindings; more rows than a grid or an index reaches; a weight beyond the indices. Buffers of the wrong size, and
//! arguments that are aliases of others, are a bug of the caller and panic.

mod call;
mod cmma;
mod epilogue;
mod gated;
mod gather;
mod gemv;
mod index;
mod limits;
mod load;
mod mma;
mod norm;
mod sddmm;
mod sizes;
mod spmm;
#[cfg(test)]
mod testing;
mod tf32;

pub use call::{Call, CubeError, Kernel};
pub use epilogue::Epilogue;
pub use gated::{gated_hidden, gated_hidden_backward};
pub use gather::{pack, unpack};
pub use gemv::{
    Gated, gated_few_rows, serves_few_rows, serves_gated_few_rows, serves_int8, spmm_int8,
};
#[doc(hidden)]
pub use mma::catalogue;
pub use mma::offer::device_class;
pub use norm::block_norms;
pub use sddmm::{grad_block_norms, sddmm};
pub use spmm::{spmm, spmm_t};
pub use tf32::{allow_tf32, tf32_allowed};
