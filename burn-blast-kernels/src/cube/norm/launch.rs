//! One launch. The buffers have the sizes that the caller checked, and there is a kept block.

use cubecl::prelude::*;

use super::base::Blueprint;
use super::kernel::block_norms_kernel;
use crate::cube::context::Context;

/// Writes the norm of each block of `values`.
pub(crate) fn launch(ctx: &Context, plan: Blueprint, values: BufferArg, norms: BufferArg) {
    let cubes = ctx.pattern.nnz();
    block_norms_kernel::launch(
        ctx.client,
        ctx.cubes(cubes),
        CubeDim::new_1d(plan.units as u32),
        AddressType::from_len(values.len()),
        values,
        norms,
        cubes,
        plan,
        ctx.dtype,
    );
}
