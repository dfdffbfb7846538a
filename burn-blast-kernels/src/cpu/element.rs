//! Storage types of the host kernels.

use std::borrow::Cow;

use half::{bf16, f16};

/// A float a weight or activation may be stored in. Arithmetic is always `f32`.
pub trait HostFloat: Copy + Default + Send + Sync + 'static {
    /// The slice as `f32`, without a copy where it is `f32` already.
    fn widen(slice: &[Self]) -> Cow<'_, [f32]>;
    /// A result rounded to the storage type, without a copy where that is `f32`.
    fn narrow(result: Vec<f32>) -> Vec<Self>;
}

impl HostFloat for f32 {
    fn widen(slice: &[Self]) -> Cow<'_, [f32]> {
        Cow::Borrowed(slice)
    }

    fn narrow(result: Vec<f32>) -> Vec<Self> {
        result
    }
}

macro_rules! half_float {
    ($($float:ty),*) => {$(
        impl HostFloat for $float {
            fn widen(slice: &[Self]) -> Cow<'_, [f32]> {
                Cow::Owned(slice.iter().map(|value| value.to_f32()).collect())
            }

            fn narrow(result: Vec<f32>) -> Vec<Self> {
                result.into_iter().map(<$float>::from_f32).collect()
            }
        }
    )*};
}

half_float!(f16, bf16);
