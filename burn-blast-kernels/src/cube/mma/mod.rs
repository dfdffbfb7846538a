//! Tensor-core kernels: `mma.sync.m16n8k16` fed by `ldmatrix`, with copies to shared memory that run ahead
//! of the arithmetic (`cp.async`) where the device has them.
//!
//! # Supported
//! f16 and bf16 storage with sums in f32; blocks of 32, 64 and 128; any number of rows; both sides of the
//! weight a multiple of 8, so that every line of a tensor starts at 16 bytes. Devices whose planes have 32
//! units and which list the instruction and `ldmatrix` for the type: NVIDIA from compute capability 8.0.
//!
//! # Refused
//! Nothing with an error: [`offer::class`] leaves all else to the kernels for any device.

pub mod catalogue;
mod fragment;
pub(super) mod gated;
pub(super) mod offer;
pub(super) mod pieces;
pub(in crate::cube) mod sddmm;
pub(super) mod spmm;
pub(super) mod tile;
