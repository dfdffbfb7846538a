//! CubeCL kernels: one source for every GPU runtime.
//!
//! | verb | serves |
//! |---|---|
//! | [`spmm()`] | forward, with an [`Epilogue`] |
//! | [`spmm_int8`] | forward with integer weights |
//! | [`spmm_t`] | input gradient |
//! | [`sddmm()`] | weight gradient |
//! | [`gated_hidden`], [`gated_hidden_backward`] | gate and up of a gated block |
//! | [`grad_block_norms`] | gradient norms for growth |
//! | [`block_norms`] | scores for pruning |
//! | [`pack`], [`unpack`] | dense ⇄ packed |
//!
//! A verb checks its buffers and asks `dispatch.rs` for a [`Plan`], which the same file launches: a kernel for few
//! rows, on tensor cores, on cooperative matrices, or on register tiles, which run on WebGPU too. [`Context::plan`]
//! says what a verb will do.
//!
//! `ARCHITECTURE.md` draws the layers of these modules and names the files of a routine.
//!
//! # Supported
//! Blocks of 8 to 128; f32, f16 and bf16 storage where the device has it; ragged sizes; empty patterns; zero rows.
//! Sums of one launch are kept in f32 and rounded once, when stored; so are the hidden features of a gated block
//! between gate and down. Factors are not rounded, unless [`allow_tf32`] says so. Nothing depends on the order in
//! which cubes run, so every result is the same from launch to launch, with one exception: where `autotune` measures
//! again and picks another tile height, long block columns are split differently, and their sums may differ in the
//! last bits.
//!
//! # Refused, by [`CubeError`]
//! Any other data type, and a type the device cannot store; devices with too little shared memory or too few
//! bindings; more rows than a grid or an index reaches; a weight beyond the indices. Buffers of the wrong size, and
//! arguments that are aliases of others, are a bug of the caller and panic.

mod buffer;
mod caps;
#[cfg(feature = "catalogue")]
pub mod catalogue;
mod context;
mod dispatch;
mod epilogue;
mod error;
mod gated;
mod gather;
mod gemv;
mod grid;
mod index;
mod limits;
mod load;
mod norm;
mod sddmm;
mod split_k;
mod spmm;
#[cfg(test)]
mod testing;
mod tf32;
mod tile;
#[cfg(feature = "autotune")]
mod tune;
mod verbs;

pub use context::Context;
pub use dispatch::{KernelClass, Op, Plan, Split, Unfused, device_class};
pub use epilogue::Epilogue;
pub use error::CubeError;
pub use tf32::{allow_tf32, tf32_allowed};
pub use verbs::{
    block_norms, gated_hidden, gated_hidden_backward, grad_block_norms, pack, sddmm, spmm,
    spmm_int8, spmm_t, unpack,
};
