//! How a tensor holds 4-bit integers.
//!
//! It is one of Burn's quantised type, as 8-bit integers are. Burn's CPU backend stores a 4-bit integer in a
//! byte, and copies scales whenever a tensor is cloned. So the elements of a tensor of 4-bit integers are the bytes of
//! [`cpu::quantize_int4`], `[nnz, 1, bytes]`, which no packed values are. Its only scale is 1, in the type that the values had. Only
//! `quantize.rs` and the kernels read it.

use burn::tensor::quantization::{QuantScheme, QuantStore, QuantValue, ScaleDtype};
use burn::tensor::{DType, Shape};
use burn_blast_kernels::{BlockPattern, cpu};

/// Bytes of 4-bit integers, which were of type `float`.
pub(crate) fn int4_scheme(float: DType) -> QuantScheme {
    let scale = match float {
        DType::F16 => ScaleDtype::F16,
        DType::BF16 => ScaleDtype::BF16,
        _ => ScaleDtype::F32,
    };
    QuantScheme::default()
        .with_value(QuantValue::Q4S)
        .with_store(QuantStore::Native)
        .per_tensor(scale)
}

/// The type that values had before they became 4-bit integers, if these are some.
pub(crate) fn before_int4(dtype: DType) -> Option<DType> {
    let floats = [DType::F32, DType::F16, DType::BF16];
    floats.into_iter().find(|&float| dtype == DType::QFloat(int4_scheme(float)))
}

/// Shape of the bytes of 4-bit integers.
pub(crate) fn int4_shape(pattern: &BlockPattern) -> Shape {
    Shape::new([pattern.nnz(), 1, cpu::int4_block_len(pattern.block())])
}

/// Whether values of this type and shape are 4-bit integers.
pub(crate) fn is_int4(dtype: DType, shape: &[usize]) -> bool {
    matches!(*shape, [_, 1, _]) && before_int4(dtype).is_some()
}
