//! Host kernels: one generic SIMD tile, chosen for the machine at run time, threaded with rayon.
//!
//! Supports blocks of 8 to 128, any `d_input x d_output`, any number of rows, and `f32`, `f16` and `bf16`
//! storage, with `int8` for weights; arithmetic is `f32` throughout. Refuses nothing but slices of the wrong
//! length, by panic. The `_into` form of a verb writes to memory of the caller's.
//!
//! Results do not depend on the number of threads: every output element is one sum in a fixed order.
//! Loop order and tile sizes were chosen by measurement on an AVX-512 Xeon.

pub(crate) mod activation;
#[cfg(all(feature = "amx", target_arch = "x86_64", target_os = "linux"))]
pub mod amx;
mod element;
mod factor;
mod mlp;
mod mlp_backward;
mod norm;
mod output;
mod panel;
mod scratch;
mod sddmm;
mod shape;
mod spmm;
mod tasks;
mod tile;
mod transpose;
mod values;

pub use activation::Activation;
pub use element::HostFloat;
pub use mlp::{Layer, Mlp, mlp_into};
pub use mlp_backward::{MlpGradients, mlp_backward};
pub use norm::{block_norm, block_norms, grad_block_norms};
pub use output::Epilogue;
pub use sddmm::{sddmm, sddmm_into};
pub use spmm::{spmm, spmm_into, spmm_t, spmm_t_into};
pub use values::Values;

/// Whether products of bf16 by bf16 run in a matrix unit of this machine, several times as fast as in its vectors.
pub fn has_matrix_unit() -> bool {
    #[cfg(all(feature = "amx", target_arch = "x86_64", target_os = "linux"))]
    let there = amx::is_available();
    #[cfg(not(all(feature = "amx", target_arch = "x86_64", target_os = "linux")))]
    let there = false;
    there
}
