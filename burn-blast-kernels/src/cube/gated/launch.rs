//! The launches. The buffers have the sizes that the caller checked, and `m` is not zero.

use cubecl::prelude::*;

use super::Tensors;
use super::mma::base::Blueprint;
use super::mma::kernel::gated_mma_kernel;
use super::task::TaskIndex;
use super::unit::gated_kernel;
use crate::cube::context::{Context, row_vector};
use crate::cube::load::SizesLaunch;
use crate::cube::tile::unit::UnitTile;

/// The pair of products on register tiles.
pub(crate) fn unit(ctx: &Context, tile: UnitTile, address: AddressType, tensors: Tensors) {
    let Tensors { up, activation, x, values, h, gradients, m } = tensors;
    let (pattern, shape, index) = (ctx.pattern, ctx.pattern.shape(), ctx.index());
    let cubes = m.div_ceil(tile.rows) * pattern.block_cols() * tile.col_tiles();
    let [gate_values, up_values] = values.map(|values| index.bindable(values));
    // SAFETY: as in `mma`, below.
    unsafe {
        gated_kernel::launch_unchecked(
            ctx.client,
            ctx.cubes(cubes),
            CubeDim::new_1d(tile.units() as u32),
            address,
            row_vector(shape.rows()),
            row_vector(shape.cols()),
            x,
            gate_values,
            up_values,
            TaskIndex::of(ctx, up).0.arg(),
            h,
            gradients.into(),
            SizesLaunch::new(m, shape.rows(), shape.cols()),
            ctx.grid(cubes, tile.rows, m, shape.rows()),
            tile,
            pattern == up,
            activation,
            ctx.dtype,
        );
    }
}

/// The pair of products on tensor cores.
pub(crate) fn mma(ctx: &Context, blueprint: Blueprint, address: AddressType, tensors: Tensors) {
    let Tensors { up, activation, x, values, h, gradients, m } = tensors;
    let (pattern, shape, index) = (ctx.pattern, ctx.pattern.shape(), ctx.index());
    let cubes = m.div_ceil(blueprint.tile.rows) * pattern.block_cols();
    let [gate_values, up_values] = values.map(|values| index.bindable(values));
    // SAFETY: every read of `x` and access to `h` and the gradients is guarded by the sizes, which the buffers
    // were checked against; the index was made from two patterns of these sizes, whose blocks are inside their
    // grid and whose slots are inside their values. The loops are bounded by it.
    unsafe {
        gated_mma_kernel::launch_unchecked(
            ctx.client,
            ctx.cubes(cubes),
            CubeDim::new_1d(blueprint.tile.units() as u32),
            address,
            x,
            gate_values,
            up_values,
            TaskIndex::of(ctx, up).0.arg(),
            h,
            gradients.into(),
            SizesLaunch::new(m, shape.rows(), shape.cols()),
            ctx.grid(cubes, blueprint.tile.rows, m, shape.rows()),
            blueprint,
            activation,
            ctx.dtype,
        );
    }
}
