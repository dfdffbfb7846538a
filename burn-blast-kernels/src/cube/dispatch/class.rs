//! The class of the kernels on many rows.

use cubecl::ir::AddressType;

use crate::cost::DeviceClass;
use crate::cube::caps::{Caps, MatrixKind};
use crate::cube::tile::mma::{PLANE, WIDE};
use crate::cube::{sddmm, spmm, tile};
use crate::{BlockSize, MatrixShape};

/// Units of a plane that the kernels on cooperative matrices support.
const CMMA_PLANES: [usize; 2] = [32, 64];

/// Class of the kernels on many rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Unit,
    Mma { pipelined: bool },
    Cmma(MatrixKind),
}

/// The class for products with a weight of this shape, with indices of this width. Copies that run ahead take 32
/// bits: with 64, CubeCL 0.11 writes a `cp.async` that does not assemble.
pub(super) fn class(
    caps: &Caps,
    block: BlockSize,
    shape: MatrixShape,
    address: AddressType,
) -> Class {
    let multiples = |of| shape.rows().is_multiple_of(of) && shape.cols().is_multiple_of(of);
    let cores = caps.mma && caps.ldmatrix && caps.plane == PLANE && caps.max_units >= 256;
    let pipelined = caps.copy_async && address == AddressType::U32;
    if cores && multiples(WIDE) && block.get() >= 32 && mma_fits(caps, block, pipelined) {
        return Class::Mma { pipelined };
    }
    match caps.cmma {
        Some(matrix)
            if multiples(tile::cmma::WIDTH)
                && block.get() >= 16
                && CMMA_PLANES.contains(&caps.plane)
                && cmma_fits(caps, matrix, block) =>
        {
            Class::Cmma(matrix)
        }
        _ => Class::Unit,
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

/// What the cost model has to know about products, by the capabilities for the dense one and for the sparse one. The
/// sparse one has tensor cores if blocks of any size take them, in a weight whose sides all kernels take.
pub(crate) fn device_class(dense: &Caps, sparse: &Caps) -> DeviceClass {
    let shape = MatrixShape::new(WIDE, WIDE).expect("the sides are not zero");
    let taken = |block| class(sparse, block, shape, AddressType::U32) != Class::Unit;
    match (dense.has_tensor_cores(), BlockSize::ALL.into_iter().any(taken)) {
        (_, true) => DeviceClass::TensorCores,
        (true, false) => DeviceClass::DenseTensorCores,
        (false, false) => DeviceClass::Gpu,
    }
}
