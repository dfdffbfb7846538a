//! Cooperative matrices: tensor cores through the interface that Vulkan, Metal, ROCm and CUDA share, where a
//! plane loads, multiplies and stores whole tiles of 16 x 16 or 8 x 8 and does not know which of its units
//! holds which element. The only way to tensor cores for f32, as TF32.
//!
//! # Supported
//! f16, and bf16 where the device lists it with sums in f32; f32 where the device lists 16 x 16 x 8 in TF32 and
//! [`allow_tf32`](super::allow_tf32) allows it; blocks of 16 and more; any number of rows; both sides of the weight
//! a multiple of 4. Devices whose planes have 32 or 64 units, always the same number.
//!
//! # Refused
//! Nothing with an error: [`class`](super::mma::offer::class) leaves all else to the kernels for any device.
//! Metal's matrices in f32 are not used.
//!
//! # Against `mma`
//! Copies pass through registers, since none of the other devices has asynchronous ones, and results through
//! shared memory, since a unit does not know its elements. `mma` is therefore preferred where there is both.

pub(super) mod base;
pub(super) mod catalogue;
mod fragment;
mod launch;
mod sddmm;
mod spmm;

pub(super) use launch::{sddmm, spmm};
