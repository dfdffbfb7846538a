//! When products round to bf16.

use std::any::TypeId;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use half::bf16;

use crate::cpu::Values;
use crate::cpu::arithmetic::Words;

static ALLOWED: AtomicBool = AtomicBool::new(false);

/// Allows products in f32 on the host to round their factors to bf16, or forbids it. Off by default; one switch for the
/// process, read at each call.
///
/// Where it is on and the processor [`has_dot_products`], products, gradients and the hidden features inside a
/// feed-forward block are rounded to the 8 significant bits of bf16, to nearest: a relative error of 2⁻⁹ for each factor,
/// over the range of f32. Sums, biases, activations and stored tensors stay f32, so that a weight in training keeps small
/// changes (mixed precision with f32 master weights, Micikevicius et al. 2018). Elsewhere it changes nothing.
///
/// PyTorch calls this `torch.set_float32_matmul_precision("medium")`.
pub fn allow_bf16(allow: bool) {
    ALLOWED.store(allow, Ordering::Relaxed);
}

/// Whether [`allow_bf16`] has allowed it.
pub fn bf16_allowed() -> bool {
    ALLOWED.load(Ordering::Relaxed)
}

/// Whether this processor multiplies pairs of bf16 faster than f32: AVX512-BF16 on AMD's, from Zen 4 on. Then products of
/// bf16 by bf16 use that.
pub fn has_dot_products() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(super::is_available);
    *AVAILABLE
}

/// The words in which features of type `T` and all of `weights` are multiplied.
pub(in crate::cpu) fn words_for<'a, T: 'static>(
    weights: impl IntoIterator<Item = Values<'a>>,
) -> Words {
    let features = TypeId::of::<T>();
    let exact = features == TypeId::of::<bf16>()
        && weights.into_iter().all(|values| matches!(values, Values::Bf16(_)));
    let rounded = features == TypeId::of::<f32>() && bf16_allowed();
    if (exact || rounded) && has_dot_products() { Words::Pair } else { Words::Single }
}
