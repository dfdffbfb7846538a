//! Whether products in f32 may use tensor cores.

use std::sync::atomic::{AtomicBool, Ordering};

static ALLOWED: AtomicBool = AtomicBool::new(false);

/// Allows products in f32 to be computed in TF32 on tensor cores, or forbids it. Off by default; one switch for the
/// process, read at each launch.
///
/// Where it is on and the device has TF32 (NVIDIA from compute capability 8.0 on), `spmm`, `spmm_t` and `sddmm` in
/// f32 round each factor to the 10 bits of TF32's fraction, to the nearest: a relative error of 2⁻¹¹ each, as in f16,
/// over the range of f32. Tensors stay f32, and so do sums, biases, activations and residuals. This needs blocks of 16
/// and more and sides of the weight that are multiples of 4. All other kernels compute in f32 throughout: products of
/// few rows, gate and up of a gated block, norms for pruning and growth.
///
/// It is one switch for the process because the operations take tensors and a pattern only, and Burn's autodiff calls
/// their backward pass without options.
///
/// PyTorch has the same switch, `torch.backends.cuda.matmul.allow_tf32`. Burn's dense product in f32 has none: its
/// kernels on tensor cores take TF32 wherever there is (`adjust_dtypes` in cubek-matmul 0.3.1,
/// `multi_level/definition/blueprint.rs`, called by burn-cubecl 0.22.1, `kernel/matmul/tune/base.rs`).
pub fn allow_tf32(allow: bool) {
    ALLOWED.store(allow, Ordering::Relaxed);
}

/// Whether [`allow_tf32`] has allowed it.
pub fn tf32_allowed() -> bool {
    ALLOWED.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_forbidden_until_it_is_allowed() {
        assert!(!tf32_allowed());
        allow_tf32(true);
        assert!(tf32_allowed());
        allow_tf32(false);
        assert!(!tf32_allowed());
    }
}
