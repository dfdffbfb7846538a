//! One launch. The buffers have the sizes that the caller checked, and `m` is not zero.

use cubecl::prelude::*;

use super::super::{Tensors, View};
use super::kernel::spmm_kernel;
use crate::cube::context::{Context, row_vector};
use crate::cube::index::IndexBuffer;
use crate::cube::tile::unit::UnitTile;

pub(crate) fn launch(ctx: &Context, tile: UnitTile, address: AddressType, tensors: Tensors) {
    let Tensors { transposed, x, values, y, epilogue, m } = tensors;
    let index = ctx.index();
    let view = View::of(ctx, &index, transposed);
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
