//! When factors of products are rounded, and which words that makes them.

use std::any::TypeId;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use half::{bf16, f16};

use crate::cpu::arithmetic::Words;
use crate::cpu::{Values, amx};

static BF16: AtomicBool = AtomicBool::new(false);
static INT8: AtomicBool = AtomicBool::new(false);
static PREFERRED: AtomicBool = AtomicBool::new(false);

/// Allows products in f32 on the host to round their factors to bf16, or forbids it. Off by default; one switch for the
/// process, read at each call.
///
/// Where it is on and the processor [`has_dot_products`], products, gradients and the hidden features inside a
/// feed-forward block are rounded to the 8 significant bits of bf16, to nearest: a relative error of at most 2⁻⁸ for
/// each factor, over the range of f32. Products of a single row are not rounded: reading the weights takes their time. Sums,
/// biases, activations and stored tensors stay f32, so that a weight in training keeps small changes (mixed precision with f32
/// master weights, Micikevicius et al. 2018). Attention by blocks rounds its factors too, queries, keys, values and shares.
/// Elsewhere, and with weights in blocks of 8 and 16 on Intel's processors, it changes nothing.
///
/// PyTorch calls this `torch.set_float32_matmul_precision("medium")`.
pub fn allow_bf16(allow: bool) {
    BF16.store(allow, Ordering::Relaxed);
}

/// Whether [`allow_bf16`] has allowed it.
pub fn bf16_allowed() -> bool {
    BF16.load(Ordering::Relaxed)
}

/// Allows forward products with int8 weights on the host (`spmm`) to round their input to 8-bit integers, or forbids it. Off
/// by default; one switch for the process, read at each call.
///
/// Where it is on and the processor [`has_integer_dot_products`], each row of an input of two or more has, in each block column, the
/// scale of its largest magnitude divided by 127. An input differs from its rounded value by half a scale at most, so that
/// an output differs by at most `Σ scale / 2 · |w|` from the product without rounding, and by what f32 rounds in the sum
/// over blocks; products and sums inside a block are exact. Where all magnitudes are below 10⁻³⁶, they count as zero. This is
/// dynamic, symmetric quantization, as `torch.ao.quantization.quantize_dynamic` has it for whole tensors and llama.cpp's Q8_0
/// for 32 elements. Elsewhere it changes nothing.
///
/// A processor with AMX rounds inputs in f32 and bf16, and scaled weights, in blocks of 32 and more to bf16 instead, which is
/// faster there. An output then differs by at most `Σ |x · w| / 127`.
pub fn allow_int8(allow: bool) {
    INT8.store(allow, Ordering::Relaxed);
}

/// Whether [`allow_int8`] has allowed it.
pub fn int8_allowed() -> bool {
    INT8.load(Ordering::Relaxed)
}

/// Whether this processor multiplies bf16 by bf16 faster than f32: AMD's with AVX512-BF16, from Zen 4 on, and with blocks of 32 and
/// more Intel's with AMX, from Sapphire Rapids on, under Linux. Products are exact, but the hidden features inside a
/// feed-forward block of bf16 and their gradients are rounded to bf16 for the next product, as between separate layers.
pub fn has_dot_products() -> bool {
    amx::is_available() || pairs_are_fast()
}

/// Whether pairs in blocks of `b` are multiplied in the matrix unit.
fn amx_multiplies(b: usize) -> bool {
    amx::is_available() && b.is_multiple_of(amx::SQUARE) && !PREFERRED.load(Ordering::Relaxed)
}

/// Whether pairs are faster than `f32` in the vector units.
fn pairs_are_fast() -> bool {
    static FASTER: LazyLock<bool> = LazyLock::new(|| super::has_pairs() && super::pairs_are_fast());
    *FASTER || PREFERRED.load(Ordering::Relaxed)
}

/// Uses dot products of pairs from now on, also where they are no faster or there is a matrix unit. Returns whether this processor has them.
#[cfg(feature = "testing")]
pub fn prefer_dot_products() -> bool {
    PREFERRED.store(super::has_pairs(), Ordering::Relaxed);
    super::has_pairs()
}

/// Whether this processor multiplies 8-bit integers faster than f32: AVX512-VNNI and AVX512-VBMI, which Intel has from Ice
/// Lake on and AMD from Zen 4 on.
pub fn has_integer_dot_products() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(super::has_quads);
    *AVAILABLE
}

/// The floating-point words in which features of type `T` and all of `weights`, in blocks of `b`, are multiplied.
pub(in crate::cpu) fn words_for<'a, T: 'static>(
    weights: impl IntoIterator<Item = Values<'a>>,
    b: usize,
) -> Words {
    let features = TypeId::of::<T>();
    let stored = features == TypeId::of::<bf16>()
        && weights.into_iter().all(|values| matches!(values, Values::Bf16(_)));
    let rounded = features == TypeId::of::<f32>() && bf16_allowed();
    match stored || rounded {
        true if amx_multiplies(b) => Words::Tile,
        true if pairs_are_fast() => Words::Pair,
        _ => Words::Single,
    }
}

/// The words in which integers of weights in blocks of `b` are multiplied by a rounded input of type `T`. In the matrix unit these
/// are pairs of bf16: it multiplies bytes at twice the rate, but sums of integers would leave it for each block to be scaled.
pub(in crate::cpu) fn words_for_integers<T: 'static>(b: usize) -> Words {
    // Nothing makes pairs of f16.
    let makes_pairs = TypeId::of::<T>() != TypeId::of::<f16>();
    if makes_pairs && amx_multiplies(b) { Words::Tile } else { Words::Quad }
}

/// Whether the input of a product with `weight` may be rounded to integers.
pub(in crate::cpu) fn rounds_to_integers(weight: Values<'_>) -> bool {
    matches!(weight, Values::Int8 { .. }) && int8_allowed() && has_integer_dot_products()
}
