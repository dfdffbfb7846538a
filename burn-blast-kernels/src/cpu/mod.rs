//! Host kernels: one generic SIMD tile, chosen for the machine at run time, threaded with rayon.
//!
//! Supports blocks of 8 to 128, any `d_input x d_output`, any number of rows, and `f32`, `f16` and `bf16`
//! storage; arithmetic is `f32` throughout. Refuses nothing but slices of the wrong length, by panic.
//!
//! Results do not depend on the number of threads: every output element is one sum in a fixed order.
//! Loop order and tile sizes were chosen by measurement on an AVX-512 Xeon.

mod element;
mod norm;
mod panel;
mod sddmm;
mod spmm;
mod tile;

pub use element::HostFloat;
pub use norm::{block_norms, grad_block_norms};
pub use sddmm::sddmm;
pub use spmm::{spmm, spmm_t};

/// Fewest multiply-adds for which a call is spread over threads: about 50 µs of one core, several
/// times the cost of waking the others. Guess.
const MIN_PARALLEL_WORK: usize = 1 << 21;

/// A raw output pointer that tasks writing disjoint parts may share.
#[derive(Clone, Copy)]
struct SharedOut(*mut f32);

// SAFETY: every user hands each task a disjoint set of elements and joins before the buffer is read.
unsafe impl Send for SharedOut {}
unsafe impl Sync for SharedOut {}

impl SharedOut {
    /// # Safety
    /// `at` must be inside the buffer the pointer was made from.
    unsafe fn at(self, at: usize) -> *mut f32 {
        unsafe { self.0.add(at) }
    }
}
