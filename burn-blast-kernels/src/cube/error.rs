//! What a device can refuse.

use cubecl::ir::ElemType;
use thiserror::Error;

/// Why a device has no kernel for a call.
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
         split the batch"
    )]
    Rows {
        /// Rows of the input.
        found: usize,
        /// Rows that fit.
        limit: usize,
        /// Name of the runtime.
        device: String,
    },
    /// The weight has more elements than the device's indices reach.
    #[error(
        "the weight has {elements} elements, and indices of the device ({device}) reach {limit}: split the layer"
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
