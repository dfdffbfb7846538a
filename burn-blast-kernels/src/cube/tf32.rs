//! Whether products in f32 may use tensor cores.

use std::sync::atomic::{AtomicBool, Ordering};

static ALLOWED: AtomicBool = AtomicBool::new(false);

/// Allows products in f32 to be computed in TF32 on tensor cores, or forbids it. Off by default; one switch for the
/// process, read at each launch.
///
/// Where it is on and the device has TF32 (NVIDIA from compute capability 8.0 on), `spmm`, `spmm_t` and `sddmm` in
/// f32 round each factor to the 10 bits of TF32's fraction, to the nearest: a relative error of 2⁻¹¹ for each, as in
/// f16, at the range of f32. Tensors stay f32, and so do sums, biases, activations and residuals. Blocks of 16 and
/// more are meant, where both sides of the weight are multiples of 4. Everything else stays f32 throughout: products
/// of few rows, the gated block's first two, norms for pruning and growth.
///
/// It is PyTorch's `torch.backends.cuda.matmul.allow_tf32`. Burn's own dense product in f32 does not ask: on a device
/// that has TF32 it takes it for every kernel on tensor cores (`adjust_dtypes` in cubek-matmul 0.3.1,
/// `multi_level/definition/blueprint.rs`; `tile_matmul_supported` in burn-cubecl 0.22.1, `kernel/matmul/tune/base.rs`).
pub fn allow_tf32(allow: bool) {
    ALLOWED.store(allow, Ordering::Relaxed);
}

/// Whether [`allow_tf32`] has allowed it.
pub fn tf32_allowed() -> bool {
    ALLOWED.load(Ordering::Relaxed)
}
