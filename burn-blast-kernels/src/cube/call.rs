//! What every launch needs besides its tensors.

use cubecl::features::TypeUsage;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use thiserror::Error;

use super::index::PatternIndex;
use super::mma::offer::Offer;
use crate::BlockPattern;

/// Why the kernels cannot serve a call.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CubeError {
    /// No kernel for this data type.
    #[error(
        "block-sparse kernels do not take {found:?} tensors: cast the weight and its input to F32, F16 or BF16"
    )]
    DataType {
        /// The type of the tensors.
        found: ElemType,
    },
    /// The device cannot hold this data type.
    #[error("the device ({device}) cannot store {found:?}: cast the weight and its input to F32")]
    DeviceType {
        /// The type of the tensors.
        found: ElemType,
        /// Name of the runtime.
        device: String,
    },
}

/// Where a kernel runs, on which pattern, with which storage type.
///
/// Tensor arguments of the kernels are contiguous row-major buffers of this type on this device.
pub struct Call<'a> {
    pub(super) client: &'a Client,
    pub(super) pattern: &'a BlockPattern,
    pub(super) dtype: ElemType,
}

impl<'a> Call<'a> {
    /// Checks that there are kernels for `dtype` on this device. `Flex32` runs as `F32`, which it is
    /// stored as.
    ///
    /// # Errors
    /// If the type is not f32, f16 or bf16, or the device cannot store it.
    pub fn new(
        client: &'a Client,
        pattern: &'a BlockPattern,
        dtype: ElemType,
    ) -> Result<Self, CubeError> {
        let dtype = storage_type(dtype)?;
        let usage = client.properties().type_usage(dtype);
        if !usage.is_superset(TypeUsage::Buffer | TypeUsage::Conversion) {
            return Err(CubeError::DeviceType { found: dtype, device: client.name().into() });
        }
        Ok(Self { client, pattern, dtype })
    }

    pub(super) fn index(&self) -> std::sync::Arc<PatternIndex> {
        PatternIndex::of(self.pattern, self.client)
    }

    /// Cubes spread over the three grid dimensions; there may be a few too many.
    pub(super) fn cubes(&self, count: usize) -> CubeCount {
        cubecl::calculate_cube_count_elemwise(self.client, count, CubeDim::new_1d(1))
    }

    /// What the device offers for the type of this call.
    pub(super) fn offer(&self) -> Offer {
        Offer::of(self.client.properties(), self.dtype)
    }

    /// Most elements of a vector.
    pub(super) fn widest(&self) -> usize {
        self.client.properties().hardware.max_vector_size
    }

    /// Elements read at a time from rows of this length, 16 bytes at most.
    pub(super) fn row_vector(&self, len: usize) -> usize {
        let most = (16 / self.dtype.size()).min(self.widest());
        if len.is_multiple_of(most) { most } else { row_vector(len) }
    }

    pub(super) fn max_units(&self) -> usize {
        self.client.properties().hardware.max_units_per_cube as usize
    }
}

fn storage_type(dtype: ElemType) -> Result<ElemType, CubeError> {
    match dtype {
        ElemType::Float(FloatKind::F32 | FloatKind::F16 | FloatKind::BF16) => Ok(dtype),
        ElemType::Float(FloatKind::Flex32) => Ok(ElemType::Float(FloatKind::F32)),
        found => Err(CubeError::DataType { found }),
    }
}

/// Panics if a buffer does not have the size its shape asks for.
pub(super) fn check_len(name: &str, arg: &BufferArg, shape: &[usize]) {
    let expected: usize = shape.iter().product();
    assert_eq!(arg.len(), expected, "`{name}` must hold {shape:?}, got {} elements", arg.len());
}

/// Elements read at a time from rows of this length.
pub(super) fn row_vector(len: usize) -> usize {
    if len.is_multiple_of(4) { 4 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flex32_is_stored_as_f32() {
        let flex = ElemType::Float(FloatKind::Flex32);
        assert_eq!(storage_type(flex), Ok(ElemType::Float(FloatKind::F32)));
    }

    #[test]
    fn the_message_says_what_to_cast_to() {
        let error = storage_type(ElemType::Float(FloatKind::F64)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "block-sparse kernels do not take Float(F64) tensors: \
             cast the weight and its input to F32, F16 or BF16"
        );
    }
}
