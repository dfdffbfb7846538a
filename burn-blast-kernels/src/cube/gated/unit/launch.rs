//! One launch. The buffers have the sizes that the caller checked, and `m` is not zero.

use cubecl::prelude::*;

use super::super::Tensors;
use super::super::task::TaskIndex;
use super::kernel::gated_kernel;
use crate::cube::context::{Context, row_vector};
use crate::cube::load::SizesLaunch;
use crate::cube::tile::unit::UnitTile;

pub(crate) fn launch(ctx: &Context, tile: UnitTile, address: AddressType, tensors: Tensors) {
    let Tensors { up, activation, x, values, h, gradients, m } = tensors;
    let (pattern, shape, index) = (ctx.pattern, ctx.pattern.shape(), ctx.index());
    let tasks = TaskIndex::of(pattern, up, ctx.client);
    let cubes = m.div_ceil(tile.rows) * pattern.block_cols() * tile.col_tiles();
    let [gate_values, up_values] = values.map(|values| index.bindable(values));
    gated_kernel::launch(
        ctx.client,
        ctx.cubes(cubes),
        CubeDim::new_1d(tile.units() as u32),
        address,
        row_vector(shape.rows()),
        row_vector(shape.cols()),
        x,
        gate_values,
        up_values,
        tasks.tasks.arg(),
        h,
        gradients.into(),
        SizesLaunch::new(m, shape.rows(), shape.cols()),
        cubes,
        tile,
        pattern == up,
        activation,
        ctx.dtype,
    );
}
