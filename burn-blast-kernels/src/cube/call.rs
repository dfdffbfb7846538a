//! What every launch needs besides its tensors.

use std::fmt;

use cubecl::features::TypeUsage;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use cubecl::server::BufferBinding;
use thiserror::Error;

use super::index::PatternIndex;
use super::limits::Limits;
use super::mma::offer::{Class, Offer, class};
use super::tf32::tf32_allowed;
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
    /// The device has too little shared memory for this block.
    #[error(
        "blocks of {block} need {needed} bytes of shared memory, and the device ({device}) has {found}: \
         take a smaller block, or Strategy::Dense"
    )]
    SharedMemory {
        /// Side of a block.
        block: usize,
        /// Bytes needed by a cube.
        needed: usize,
        /// Bytes a cube may have.
        found: usize,
        /// Name of the runtime.
        device: String,
    },
    /// The device allows too few buffers.
    #[error(
        "the kernels bind {needed} buffers, and the device ({device}) allows {found}: \
         take Strategy::Dense, or another adapter"
    )]
    Bindings {
        /// Buffers of a kernel.
        needed: usize,
        /// Buffers allowed.
        found: usize,
        /// Name of the runtime.
        device: String,
    },
    /// The input has too many rows for one launch.
    #[error(
        "the device ({device}) takes at most {limit} rows of this layer at once, and the input has {found}: \
         cut the batch"
    )]
    Rows {
        /// Rows of the input.
        found: usize,
        /// Rows that fit.
        limit: usize,
        /// Name of the runtime.
        device: String,
    },
    /// The device is too small for the kernels for few rows.
    #[error(
        "the kernels for few rows need {needed} {what}, and the device ({device}) has {found}: take spmm or \
         gated_hidden, with values as floats"
    )]
    FewRows {
        /// What there is too little of, and how it is counted.
        what: &'static str,
        /// How much they need.
        needed: usize,
        /// How much there is.
        found: usize,
        /// Name of the runtime.
        device: String,
    },
    /// The weight has more elements than the device's indices reach.
    #[error(
        "the weight has {elements} elements, and indices of the device ({device}) reach {limit}: cut the layer"
    )]
    Weight {
        /// Elements of the packed values, or of the dense weight where that is read or written.
        elements: u64,
        /// Elements that indices reach.
        limit: u64,
        /// Name of the runtime.
        device: String,
    },
}

/// Kinds of kernel for the three products. The page "The kernel ladder" of the book has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Register tiles, on any device.
    RegisterTiles,
    /// `mma` instructions.
    TensorCores {
        /// Whether copies to shared memory run ahead.
        pipelined: bool,
    },
    /// Cooperative matrices.
    CooperativeMatrices {
        /// Side of one.
        side: usize,
        /// Whether tensors are f32 and factors rounded to TF32.
        tf32: bool,
    },
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RegisterTiles => write!(f, "register tiles"),
            Self::TensorCores { pipelined: true } => write!(f, "tensor cores, copies ahead"),
            Self::TensorCores { pipelined: false } => write!(f, "tensor cores"),
            Self::CooperativeMatrices { side, tf32 } => {
                let tf32 = if *tf32 { " in TF32" } else { "" };
                write!(f, "tensor cores, cooperative matrices of {side} x {side}{tf32}")
            }
        }
    }
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
    /// If the type is not f32, f16 or bf16, or the device cannot store it, has too little of what every kernel
    /// needs, or indices that do not reach all packed values.
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
        let limits = Limits::of(client);
        limits.check_block(pattern.block())?;
        limits.check_elements(pattern.value_count())?;
        Ok(Self { client, pattern, dtype })
    }

    /// Checks that launches on `m` rows fit the device. Beyond that, an error of a launch comes out of the next
    /// read.
    ///
    /// # Errors
    /// If they need more cubes or wider indices than the device has.
    pub fn for_rows(self, m: usize) -> Result<Self, CubeError> {
        Limits::of(self.client).check_rows(self.pattern, m)?;
        Ok(self)
    }

    /// Checks that the dense weight fits the device, which only [`pack`](super::pack) and [`unpack`](super::unpack)
    /// ask for.
    ///
    /// # Errors
    /// If it needs wider indices than the device has.
    pub fn for_dense(self) -> Result<Self, CubeError> {
        Limits::of(self.client).check_elements(self.pattern.shape().area())?;
        Ok(self)
    }

    /// Whether [`spmm_t`](super::spmm_t), or [`spmm`](super::spmm()) with a bias, can add a residual here: with it a
    /// kernel binds nine buffers, CubeCL's own among them, one more than WebGPU promises.
    pub fn takes_residual(&self) -> bool {
        Limits::of(self.client).takes_residual()
    }

    /// The kernel that the three products get, but for few rows, by what the device offers.
    pub fn kernel(&self) -> Kernel {
        let shape = self.pattern.shape();
        let sides = [shape.rows(), shape.cols()];
        match class(&self.offer(), self.pattern.block(), sides, AddressType::U32) {
            Class::Mma { pipelined } => Kernel::TensorCores { pipelined },
            Class::Cmma(matrix) => {
                Kernel::CooperativeMatrices { side: matrix.side, tf32: matrix.is_tf32() }
            }
            Class::Unit => Kernel::RegisterTiles,
        }
    }

    pub(super) fn index(&self) -> std::sync::Arc<PatternIndex> {
        PatternIndex::of(self.pattern, self.client)
    }

    /// Cubes spread over the three grid dimensions; there may be a few too many.
    ///
    /// # Panics
    /// If there are more than CubeCL counts, which [`for_rows`](Self::for_rows) refuses.
    pub(super) fn cubes(&self, count: usize) -> CubeCount {
        check_count(count);
        cubecl::calculate_cube_count_elemwise(self.client, count, CubeDim::new_1d(1))
    }

    /// What the device offers for the type of this call.
    pub(super) fn offer(&self) -> Offer {
        Offer::of(self.client.properties(), self.dtype, tf32_allowed())
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

pub(super) fn storage_type(dtype: ElemType) -> Result<ElemType, CubeError> {
    match dtype {
        ElemType::Float(FloatKind::F32 | FloatKind::F16 | FloatKind::BF16) => Ok(dtype),
        ElemType::Float(FloatKind::Flex32) => Ok(ElemType::Float(FloatKind::F32)),
        found => Err(CubeError::DataType { found }),
    }
}

/// Panics if a launch of so many cubes would silently have fewer.
fn check_count(cubes: usize) {
    assert!(u32::try_from(cubes).is_ok(), "a launch of {cubes} cubes is too large: cut the batch");
}

/// Panics if a buffer does not have the size its shape asks for, or is named by its place among the arguments of a
/// kernel, which is not the same in each kernel that a call may launch.
pub(super) fn check_len(name: &str, arg: &BufferArg, shape: &[usize]) {
    assert!(
        matches!(arg, BufferArg::Handle { .. }),
        "`{name}` must be a buffer, not an alias of another argument: pass its handle"
    );
    let expected: usize = shape.iter().product();
    assert_eq!(arg.len(), expected, "`{name}` must hold {shape:?}, got {} elements", arg.len());
}

/// The same buffer for two launches. It must have passed [`check_len`].
pub(super) fn twice(arg: BufferArg) -> [BufferArg; 2] {
    let length = arg.len();
    let binding = binding(arg);
    [binding.clone(), binding].map(|binding| {
        // SAFETY: the length is the one it had.
        unsafe { BufferArg::from_raw_parts_binding(binding, length) }
    })
}

/// What an argument binds. It must have passed [`check_len`].
pub(super) fn binding(arg: BufferArg) -> BufferBinding {
    match arg {
        BufferArg::Handle { handle } => handle.handle,
        BufferArg::Alias { .. } => unreachable!("aliases are refused"),
    }
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
    fn a_kernel_says_if_it_rounds_to_tf32() {
        let name = |tf32| Kernel::CooperativeMatrices { side: 16, tf32 }.to_string();
        assert_eq!(name(false), "tensor cores, cooperative matrices of 16 x 16");
        assert_eq!(name(true), "tensor cores, cooperative matrices of 16 x 16 in TF32");
    }

    #[test]
    #[should_panic(
        expected = "`values` must be a buffer, not an alias of another argument: pass its handle"
    )]
    fn an_alias_is_refused() {
        check_len("values", &BufferArg::alias(0, 4), &[4]);
    }

    #[test]
    #[should_panic(expected = "a launch of 4294967296 cubes is too large: cut the batch")]
    fn a_grid_beyond_32_bits_is_refused() {
        check_count(u32::MAX as usize);
        check_count(1 << 32);
    }

    #[test]
    fn a_device_too_small_for_few_rows_is_told_what_to_take() {
        let (what, device) = ("units a cube", "made up".into());
        assert_eq!(
            CubeError::FewRows { what, needed: 128, found: 64, device }.to_string(),
            "the kernels for few rows need 128 units a cube, and the device (made up) has 64: take spmm or \
             gated_hidden, with values as floats"
        );
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
