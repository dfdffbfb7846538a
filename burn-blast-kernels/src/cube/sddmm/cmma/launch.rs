//! One launch. The buffers have the sizes that the caller checked, and there is a kept block.

use cubecl::prelude::*;

use super::super::{GroupIndex, Tensors};
use super::base::Blueprint;
use super::kernel::sddmm_cmma_kernel;
use crate::cube::context::Context;
use crate::cube::load::SizesLaunch;

pub(crate) fn launch(ctx: &Context, plan: Blueprint, address: AddressType, tensors: Tensors) {
    let Tensors { x, dy, out, m } = tensors;
    let (index, shape) = (ctx.index(), ctx.pattern.shape());
    let groups = GroupIndex::of(ctx.pattern, ctx.client, plan.group());
    let cubes = groups.count * plan.side_tiles() * plan.side_tiles();
    sddmm_cmma_kernel::launch(
        ctx.client,
        ctx.cubes(cubes),
        CubeDim::new_1d(plan.tile.units() as u32),
        address,
        index.bindable(x),
        index.bindable(dy),
        index.row_idx.arg(),
        index.col_of_slot.arg(),
        groups.starts.arg(),
        out,
        SizesLaunch::new(m, shape.rows(), shape.cols()),
        cubes,
        plan,
        ctx.dtype,
        plan.tile.matrix.element,
    );
}
