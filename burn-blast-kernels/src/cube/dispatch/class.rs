//! Which kernels serve many rows.

use cubecl::ir::{AddressType, ElemType};
use cubecl::prelude::Client;

use crate::cost::DeviceClass;
use crate::cube::caps::{Caps, MatrixKind, storage_type};
use crate::cube::tf32::tf32_allowed;
use crate::cube::tile::mma::{PLANE, WIDE};
use crate::cube::{sddmm, spmm, tile};
use crate::{BlockSize, MatrixShape};

/// Units of a plane that the kernels on cooperative matrices support.
const CMMA_PLANES: [usize; 2] = [32, 64];

/// The kernels for many rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ManyRows {
    Unit,
    Mma { pipelined: bool },
    Cmma(MatrixKind),
}

/// The kernels for products with a weight of this shape, with indices of this width. Copies that run ahead take 32
/// bits: with 64, CubeCL 0.11 writes a `cp.async` that does not assemble.
pub(super) fn many_rows(
    caps: &Caps,
    block: BlockSize,
    shape: MatrixShape,
    address: AddressType,
) -> ManyRows {
    let multiples = |of| shape.rows().is_multiple_of(of) && shape.cols().is_multiple_of(of);
    let cores = caps.mma && caps.ldmatrix && caps.plane == Some(PLANE) && caps.max_units >= 256;
    let pipelined = caps.copy_async && address == AddressType::U32;
    if cores && multiples(WIDE) && block.get() >= 32 && mma_fits(caps, block, pipelined) {
        return ManyRows::Mma { pipelined };
    }
    match caps.cmma {
        Some(matrix)
            if multiples(tile::cmma::WIDTH)
                && block.get() >= 16
                && caps.plane.is_some_and(|plane| CMMA_PLANES.contains(&plane))
                && cmma_fits(caps, matrix, block) =>
        {
            ManyRows::Cmma(matrix)
        }
        _ => ManyRows::Unit,
    }
}

/// Whether all three products have a tile of `mma` that fits the device.
fn mma_fits(caps: &Caps, block: BlockSize, pipelined: bool) -> bool {
    let product = |t| spmm::mma::base::candidates(caps, block, t, [1, 1], pipelined);
    [false, true].into_iter().all(|transposed| !product(transposed).is_empty())
        && sddmm::mma::base::select(caps, block, pipelined).is_some()
}

/// Whether all three products have a tile of cooperative matrices that fits the device.
fn cmma_fits(caps: &Caps, matrix: MatrixKind, block: BlockSize) -> bool {
    let product = |t| spmm::cmma::base::candidates(caps, matrix, block, t, [1, 1]);
    [false, true].into_iter().all(|transposed| !product(transposed).is_empty())
        && sddmm::cmma::base::select(caps, matrix, block).is_some()
}

/// What the cost model has to know about products of this type on the device. The dense product of Burn in f32 is TF32
/// wherever the device has it; the sparse one only if [`allow_tf32`](crate::cube::allow_tf32) says so.
pub fn device_class(client: &Client, dtype: ElemType) -> DeviceClass {
    let Ok(dtype) = storage_type(dtype) else { return DeviceClass::Gpu };
    let [dense, sparse] =
        [true, tf32_allowed()].map(|tf32| Caps::new(client.properties(), dtype, tf32));
    cores(&dense, &sparse)
}

/// The same by the capabilities for the dense product and for the sparse one, which has tensor cores if blocks of any
/// size take them, in a weight whose sides all kernels take.
pub(super) fn cores(dense: &Caps, sparse: &Caps) -> DeviceClass {
    let shape = MatrixShape::new(WIDE, WIDE).expect("the sides are not zero");
    let taken = |block| many_rows(sparse, block, shape, AddressType::U32) != ManyRows::Unit;
    match (dense.has_tensor_cores(), BlockSize::ALL.into_iter().any(taken)) {
        (_, true) => DeviceClass::TensorCores,
        (true, false) => DeviceClass::DenseTensorCores,
        (false, false) => DeviceClass::Gpu,
    }
}
