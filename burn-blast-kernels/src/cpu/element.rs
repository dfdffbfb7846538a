//! Storage types of the host kernels.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use half::slice::HalfFloatSliceExt;
use half::vec::HalfFloatVecExt;
use half::{bf16, f16};

use super::{Values, scratch};

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
