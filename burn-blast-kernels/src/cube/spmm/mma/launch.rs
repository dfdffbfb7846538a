//! One launch, or two with split-K. The buffers have the sizes that the caller checked, and `m` is not zero.

use cubecl::prelude::*;

use super::super::{Tensors, View};
use super::base::Blueprint;
use super::kernel::spmm_mma_kernel;
use super::split_k::{add_parts_kernel, spmm_parts_kernel};
use crate::cube::buffer::{SharedBuffer, partial_sums};
use crate::cube::context::Context;
use crate::cube::index::IndexBuffer;
use crate::cube::split_k::{ADD_UNITS, SplitK, WorkIndex};

pub(crate) fn launch(
    ctx: &Context,
    plan: Blueprint,
    split: Option<SplitK>,
    address: AddressType,
    tensors: Tensors,
) {
    if let Some(split) = split {
        return launch_parts(ctx, plan, split, address, tensors);
    }
    let Tensors { transposed, x, values, y, epilogue, m } = tensors;
    let index = ctx.index();
    let view = View::of(ctx, &index, transposed);
    let cubes = m.div_ceil(plan.tile.rows) * view.block_cols;
    // SAFETY: every read of `x` and write of `y` is guarded by `m`, `k` and `n`, which the buffers were
    // checked against; indices come from a `BlockPattern`, whose blocks are inside its grid and whose slots
    // are inside `values`. The loops are bounded by those indices.
    unsafe {
        spmm_mma_kernel::launch_unchecked(
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
        );
    }
}

/// The product over parts of block columns, and the launch that adds their partial sums.
fn launch_parts(
    ctx: &Context,
    plan: Blueprint,
    split: SplitK,
    address: AddressType,
    tensors: Tensors,
) {
    let Tensors { transposed, x, values, y, epilogue, m } = tensors;
    let index = ctx.index();
    let view = View::of(ctx, &index, transposed);
    let work = WorkIndex::by_range(ctx.pattern, ctx.client, transposed, split);
    let partial = partial_sums(ctx.client, work.partials * m * plan.block);
    let cubes = m.div_ceil(plan.tile.rows) * work.count;
    let y = SharedBuffer::new(y);
    let [bias, residual] = [epilogue.bias, epilogue.residual].map(|arg| arg.map(SharedBuffer::new));
    let [bias, residual] =
        [&bias, &residual].map(|buffer| move || buffer.as_ref().map(SharedBuffer::arg));
    // SAFETY: every read of `x` and write of `y` is guarded by `m`, `k` and `n`, which the buffers were
    // checked against; indices come from a `BlockPattern`, whose blocks are inside its grid and whose slots
    // are inside `values`. Partial sums are numbered below `partials`, their rows are guarded by `m`.
    unsafe {
        spmm_parts_kernel::launch_unchecked(
            ctx.client,
            ctx.cubes(cubes),
            CubeDim::new_1d(plan.tile.units() as u32),
            address,
            x,
            index.bindable(values),
            bias().into(),
            work.parts.arg(),
            view.idx.arg(),
            view.slot.map(IndexBuffer::arg).into(),
            residual().into(),
            y.arg(),
            partial.arg(),
            m,
            view.contraction,
            view.output,
            cubes,
            plan,
            epilogue.activation,
            ctx.dtype,
        );
    }
    let vectors = work.split_columns * m * plan.block / 4;
    // SAFETY: `partial` holds every part of every column in `columns`; writes are guarded by `n`, and rows by the
    // number of units.
    unsafe {
        add_parts_kernel::launch_unchecked(
            ctx.client,
            ctx.cubes(vectors.div_ceil(ADD_UNITS)),
            CubeDim::new_1d(ADD_UNITS as u32),
            address,
            partial.arg(),
            bias().into(),
            work.columns.arg(),
            residual().into(),
            y.arg(),
            m,
            view.output,
            work.split_columns,
            plan.block,
            epilogue.activation,
            ctx.dtype,
        );
    }
}
