//! One launch. The buffers have the sizes that the caller checked, and `m` is not zero.

use cubecl::prelude::*;

use super::super::Tensors;
use super::super::task::TaskIndex;
use super::base::Blueprint;
use super::kernel::gated_mma_kernel;
use crate::cube::context::Context;
use crate::cube::load::SizesLaunch;

pub(crate) fn launch(ctx: &Context, plan: Blueprint, address: AddressType, tensors: Tensors) {
    let Tensors { up, activation, x, values, h, gradients, m } = tensors;
    let (pattern, shape, index) = (ctx.pattern, ctx.pattern.shape(), ctx.index());
    let tasks = TaskIndex::of(pattern, up, ctx.client);
    let cubes = m.div_ceil(plan.tile.rows) * pattern.block_cols();
    let [gate_values, up_values] = values.map(|values| index.bindable(values));
    // SAFETY: every read of `x` and access to `h` and the gradients is guarded by the sizes, which the buffers
    // were checked against; the index was made from two patterns of these sizes, whose blocks are inside their
    // grid and whose slots are inside their values. The loops are bounded by it.
    unsafe {
        gated_mma_kernel::launch_unchecked(
            ctx.client,
            ctx.cubes(cubes),
            CubeDim::new_1d(plan.tile.units() as u32),
            address,
            x,
            gate_values,
            up_values,
            tasks.tasks.arg(),
            h,
            gradients.into(),
            SizesLaunch::new(m, shape.rows(), shape.cols()),
            cubes,
            plan,
            activation,
            ctx.dtype,
        );
    }
}
