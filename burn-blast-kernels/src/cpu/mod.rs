//! Host kernels: a generic SIMD microkernel, compiled for several instruction sets and selected at run time, with threads
//! by rayon.
//!
//! Supported are block sizes of 8 to 128, weights of any size, any number of rows, and storage in `f32`, `f16` and
//! `bf16`, for weights also in `int8` and `int4`. Sums are `f32`; factors are too, except where dot products of smaller numbers are used:
//! see [`has_dot_products`], [`allow_bf16`] and [`allow_int8`]. The only error is a slice of the wrong length, which panics.
//! The `_into` form of a function writes to memory of the caller.
//!
//! Results do not depend on the number of threads, because every output element is one sum in a fixed order. Loop order
//! and tile shapes were chosen by measurement on an AVX-512 Xeon.
//!
//! From the inside out: the microkernel keeps a tile of sums in registers, the macro-kernel computes one block column
//! of an output from panels of the input, and a task computes some block columns of some rows.

mod activation;
mod amx;
mod arithmetic;
mod attention;
mod causal;
mod dot;
mod features;
mod gemv;
mod int4;
mod lanes;
mod macro_kernel;
mod microkernel;
mod mlp;
mod mlp_backward;
mod norm;
mod operand;
mod output;
mod panels;
mod scores;
mod scratch;
mod sddmm;
mod softmax;
mod spmm;
mod tasks;
mod transpose;
mod values;

pub use activation::gated_activation_into;
#[cfg(all(feature = "testing", target_arch = "x86_64", target_os = "linux"))]
pub use amx::{amx_uses_here, assume_amx};
pub use attention::CachedAttention;
pub use causal::CausalAttention;
#[cfg(feature = "testing")]
pub use dot::prefer_dot_products;
pub use dot::{
    allow_bf16, allow_int8, bf16_allowed, has_dot_products, has_integer_dot_products, int8_allowed,
};
pub use int4::{dequantize_int4, int4_block_len, quantize_int4};
pub use mlp::{Mlp, MlpLayer, mlp_into};
pub use mlp_backward::{MlpGradients, mlp_backward};
pub use norm::{block_norm, block_norms, grad_block_norms};
pub use scores::{ScoreLosses, score_losses};
pub use sddmm::{sddmm, sddmm_into};
pub use softmax::{masked_softmax_into, softmax_backward_into};
pub use spmm::{spmm, spmm_into, spmm_t, spmm_t_into};
pub use values::{HostFloat, Values};

/// Whether this machine has a matrix unit, in which products of bf16 by bf16 in blocks of 32 and more run: Intel's AMX, under Linux.
pub fn has_matrix_unit() -> bool {
    amx::is_available()
}
