//! Buffers in, one launch. The caller has checked their sizes.

use cubecl::prelude::*;

use super::base::{Product, Sampled};
use super::sddmm::sddmm_cmma_kernel;
use super::spmm::spmm_cmma_kernel;
use crate::cube::index::{GroupIndex, IndexBuffer, PatternIndex};
use crate::cube::mma::sddmm::base::group_starts;
use crate::cube::sizes::SizesLaunch;
use crate::cube::spmm::Side;
use crate::cube::{Call, Epilogue};

/// Launches `spmm` or `spmm_t` as `plan` describes; `m` is not zero.
#[allow(clippy::too_many_arguments)]
pub(in crate::cube) fn spmm(
    call: &Call,
    index: &PatternIndex,
    side: Side,
    plan: Product,
    [x, values, y]: [BufferArg; 3],
    epilogue: Epilogue,
    m: usize,
    address: AddressType,
) {
    let cubes = m.div_ceil(plan.tile.rows) * side.lines * plan.parts();
    spmm_cmma_kernel::launch(
        call.client,
        call.cubes(cubes),
        CubeDim::new_1d(plan.tile.units() as u32),
        address,
        x,
        index.bindable(values),
        epilogue.bias.into(),
        side.order.arg(),
        side.ptr.arg(),
        side.idx.arg(),
        side.slot.map(IndexBuffer::arg).into(),
        epilogue.residual.into(),
        y,
        m,
        side.contraction,
        side.output,
        cubes,
        plan,
        epilogue.activation,
        call.dtype,
        plan.tile.matrix.element,
    );
}

/// Launches `sddmm` as `plan` describes; there is a kept block.
pub(in crate::cube) fn sddmm(
    call: &Call,
    index: &PatternIndex,
    plan: Sampled,
    [x, dy, dw]: [BufferArg; 3],
    m: usize,
    address: AddressType,
) {
    let groups = GroupIndex::of(call.pattern, call.client, plan.group(), group_starts);
    let shape = call.pattern.shape();
    let cubes = groups.count * plan.parts() * plan.parts();
    sddmm_cmma_kernel::launch(
        call.client,
        call.cubes(cubes),
        CubeDim::new_1d(plan.tile.units() as u32),
        address,
        index.bindable(x),
        index.bindable(dy),
        index.row_idx.arg(),
        index.col_of_slot.arg(),
        groups.starts.arg(),
        dw,
        SizesLaunch::new(m, shape.rows(), shape.cols()),
        cubes,
        plan,
        call.dtype,
        plan.tile.matrix.element,
    );
}
