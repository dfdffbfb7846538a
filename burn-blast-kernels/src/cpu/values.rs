//! Storage types of the host kernels, and their conversion to `f32`.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use half::slice::HalfFloatSliceExt;
use half::vec::HalfFloatVecExt;
use half::{bf16, f16};

use super::scratch;

/// Packed values `[nnz, b, b]` in their storage type; arithmetic is always `f32`.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Half precision.
    F16(&'a [f16]),
    /// Brain floating point.
    Bf16(&'a [bf16]),
    /// 8-bit integers with one scale per block.
    Int8 {
        /// `[nnz, b, b]`.
        values: &'a [i8],
        /// `[nnz]`.
        scales: &'a [f32],
    },
}

impl Values<'_> {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Values::F32(values) => values.len(),
            Values::F16(values) => values.len(),
            Values::Bf16(values) => values.len(),
            Values::Int8 { values, .. } => values.len(),
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes block `slot` to `to`, which has the length of a block.
    #[inline(always)]
    pub(super) fn widen(&self, slot: usize, to: &mut [f32]) {
        let at = slot * to.len()..(slot + 1) * to.len();
        match self {
            Values::F32(values) => to.copy_from_slice(&values[at]),
            // By a conversion instruction, where the machine has one.
            Values::F16(values) => values[at].convert_to_f32_slice(to),
            Values::Bf16(values) => {
                for (to, from) in to.iter_mut().zip(&values[at]) {
                    *to = f32::from_bits(u32::from(from.to_bits()) << 16);
                }
            }
            Values::Int8 { values, scales } => {
                let scale = scales[slot];
                for (to, &from) in to.iter_mut().zip(&values[at]) {
                    *to = f32::from(from) * scale;
                }
            }
        }
    }
}

/// A floating-point type that weights and inputs may be stored in. Arithmetic is always `f32`.
pub trait HostFloat: Copy + Default + Send + Sync + 'static {
    /// Converts a slice to `f32`; borrows it if it is `f32`.
    fn widen(slice: &[Self]) -> Cow<'_, [f32]>;
    /// Rounds a result to the storage type; returns it unchanged for `f32`.
    fn narrow(result: Vec<f32>) -> Vec<Self>;
    /// Has `fill` write every element as `f32`, then rounds to the storage type.
    fn store(out: &mut [MaybeUninit<Self>], fill: impl FnOnce(&mut [MaybeUninit<f32>]));
    /// The slice as packed values.
    fn values(slice: &[Self]) -> Values<'_>;
}

impl HostFloat for f32 {
    fn widen(slice: &[Self]) -> Cow<'_, [f32]> {
        Cow::Borrowed(slice)
    }

    fn narrow(result: Vec<f32>) -> Vec<Self> {
        result
    }

    fn store(out: &mut [MaybeUninit<Self>], fill: impl FnOnce(&mut [MaybeUninit<f32>])) {
        fill(out);
    }

    fn values(slice: &[Self]) -> Values<'_> {
        Values::F32(slice)
    }
}

macro_rules! half_float {
    ($($float:ty => $values:ident),*) => {$(
        impl HostFloat for $float {
            fn widen(slice: &[Self]) -> Cow<'_, [f32]> {
                Cow::Owned(slice.to_f32_vec())
            }

            fn narrow(result: Vec<f32>) -> Vec<Self> {
                Vec::from_f32_slice(&result)
            }

            fn store(out: &mut [MaybeUninit<Self>], fill: impl FnOnce(&mut [MaybeUninit<f32>])) {
                scratch::with(out.len(), |wide| {
                    // SAFETY: the same memory; `fill` writes every element.
                    fill(unsafe {
                        std::slice::from_raw_parts_mut(wide.as_mut_ptr().cast(), wide.len())
                    });
                    for (out, &wide) in out.iter_mut().zip(wide.iter()) {
                        out.write(<$float>::from_f32(wide));
                    }
                });
            }

            fn values(slice: &[Self]) -> Values<'_> {
                Values::$values(slice)
            }
        }
    )*};
}

half_float!(f16 => F16, bf16 => Bf16);
