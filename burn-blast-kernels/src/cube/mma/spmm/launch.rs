//! Buffers in, one launch.

use cubecl::prelude::*;

use super::base::Blueprint;
use super::kernel::spmm_mma_kernel;
use crate::cube::index::{IndexBuffer, PatternIndex};
use crate::cube::mma::pieces;
use crate::cube::spmm::Side;
use crate::cube::{Call, Epilogue};

/// Launches the product that `plan` describes. Buffers have the sizes that the caller checked, and `m` is
/// not zero.
#[allow(clippy::too_many_arguments)]
pub(crate) fn launch(
    call: &Call,
    index: &PatternIndex,
    side: Side,
    plan: Blueprint,
    [x, values, y]: [BufferArg; 3],
    epilogue: Epilogue,
    m: usize,
    address: AddressType,
) {
    if let Some(pieces) = pieces::find(call, side.slot.is_some(), plan, m) {
        let buffers = [x, values, y];
        return pieces::launch(call, index, &pieces, side, plan, buffers, epilogue, m, address);
    }
    let cubes = m.div_ceil(plan.tile.rows) * side.lines;
    // SAFETY: every read of `x` and write of `y` is guarded by `m`, `k` and `n`, which the buffers were
    // checked against; indices come from a `BlockPattern`, whose blocks lie inside its grid and whose slots
    // lie inside `values`. The loops are bounded by those indices.
    unsafe {
        spmm_mma_kernel::launch_unchecked(
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
        );
    }
}
