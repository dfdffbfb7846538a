//! One launch. The buffers have the sizes that the caller checked, and `m` is not zero.

use cubecl::prelude::*;

use super::super::{Tensors, View};
use super::base::Blueprint;
use super::kernel::spmm_cmma_kernel;
use crate::cube::context::Context;
use crate::cube::index::IndexBuffer;

pub(crate) fn launch(ctx: &Context, plan: Blueprint, address: AddressType, tensors: Tensors) {
    let Tensors { transposed, x, values, y, epilogue, m } = tensors;
    let index = ctx.index();
    let view = View::of(ctx, &index, transposed);
    let cubes = m.div_ceil(plan.tile.rows) * view.block_cols * plan.col_tiles();
    spmm_cmma_kernel::launch(
        ctx.client,
        ctx.cubes(cubes),
        CubeDim::new_1d(plan.tile.units() as u32),
        address,
        x,
        index.bindable(values),
        epilogue.bias.into(),
        view.order.arg(),
        view.ptr.arg(),
        view.idx.arg(),
        view.slot.map(IndexBuffer::arg).into(),
        epilogue.residual.into(),
        y,
        m,
        view.contraction,
        view.output,
        cubes,
        plan,
        epilogue.activation,
        ctx.dtype,
        plan.tile.matrix.element,
    );
}
