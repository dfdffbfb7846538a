//! The launches. The buffers have the sizes that the caller checked, and `m` is not zero.

use cubecl::prelude::*;

use super::cmma::kernel::spmm_cmma_kernel;
use super::mma::kernel::spmm_mma_kernel;
use super::mma::split_k::{add_parts_kernel, spmm_parts_kernel};
use super::unit::spmm_kernel;
use super::{Tensors, View, cmma, mma};
use crate::cube::buffer::{SharedBuffer, partial_sums};
use crate::cube::context::{Context, row_vector};
use crate::cube::index::IndexBuffer;
use crate::cube::split_k::{ADD_UNITS, SplitK, WorkIndex};
use crate::cube::tile::unit::UnitTile;

/// The product on register tiles.
pub(crate) fn unit(ctx: &Context, tile: UnitTile, address: AddressType, tensors: Tensors) {
    let Tensors { transposed, x, values, y, epilogue, m } = tensors;
    let index = ctx.index();
    let view = View::new(ctx, &index, transposed);
    let cubes = m.div_ceil(tile.rows) * view.block_cols * tile.col_tiles();
    // The sums of a transposed tile are `units_n` columns apart and stored one by one.
    let y_vector = if tile.transposed { 1 } else { row_vector(view.output) };
    spmm_kernel::launch(
        ctx.client,
        ctx.cubes(cubes),
        CubeDim::new_1d(tile.units() as u32),
        address,
        row_vector(view.contraction),
        y_vector,
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
        tile,
        epilogue.activation,
        ctx.dtype,
    );
}

/// The product on cooperative matrices.
pub(crate) fn cmma(
    ctx: &Context,
    blueprint: cmma::base::Blueprint,
    address: AddressType,
    tensors: Tensors,
) {
    let Tensors { transposed, x, values, y, epilogue, m } = tensors;
    let index = ctx.index();
    let view = View::new(ctx, &index, transposed);
    let cubes = m.div_ceil(blueprint.tile.rows) * view.block_cols * blueprint.col_tiles();
    spmm_cmma_kernel::launch(
        ctx.client,
        ctx.cubes(cubes),
        CubeDim::new_1d(blueprint.tile.units() as u32),
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
        blueprint,
        epilogue.activation,
        ctx.dtype,
        blueprint.tile.matrix.element,
    );
}

/// The product on tensor cores; two launches with split-K.
pub(crate) fn mma(
    ctx: &Context,
    blueprint: mma::base::Blueprint,
    split: Option<SplitK>,
    address: AddressType,
    tensors: Tensors,
) {
    if let Some(split) = split {
        return mma_split_k(ctx, blueprint, split, address, tensors);
    }
    let Tensors { transposed, x, values, y, epilogue, m } = tensors;
    let index = ctx.index();
    let view = View::new(ctx, &index, transposed);
    let cubes = m.div_ceil(blueprint.tile.rows) * view.block_cols;
    // SAFETY: every read of `x` and write of `y` is guarded by `m`, `k` and `n`, which the buffers were
    // checked against; indices come from a `BlockPattern`, whose blocks are inside its grid and whose slots
    // are inside `values`. The loops are bounded by those indices.
    unsafe {
        spmm_mma_kernel::launch_unchecked(
            ctx.client,
            ctx.cubes(cubes),
            CubeDim::new_1d(blueprint.tile.units() as u32),
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
            blueprint,
            epilogue.activation,
            ctx.dtype,
        );
    }
}

/// The product over parts of block columns, and the launch that adds their partial sums.
fn mma_split_k(
    ctx: &Context,
    blueprint: mma::base::Blueprint,
    split: SplitK,
    address: AddressType,
    tensors: Tensors,
) {
    let Tensors { transposed, x, values, y, epilogue, m } = tensors;
    let index = ctx.index();
    let view = View::new(ctx, &index, transposed);
    let work = WorkIndex::by_range(ctx.pattern, ctx.client, transposed, split);
    let partial = partial_sums(ctx.client, work.host.partials * m * blueprint.block);
    let cubes = m.div_ceil(blueprint.tile.rows) * work.host.count;
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
            CubeDim::new_1d(blueprint.tile.units() as u32),
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
            blueprint,
            epilogue.activation,
            ctx.dtype,
        );
    }
    let vectors = work.host.split_columns * m * blueprint.block / 4;
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
            work.host.split_columns,
            blueprint.block,
            epilogue.activation,
            ctx.dtype,
        );
    }
}
