//! One launch, or two where rows are split. The buffers have the sizes that the caller checked, and there is a kept
//! block.

use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

use super::super::{GroupIndex, Tensors};
use super::base::Blueprint;
use super::kernel::{SampledSizesLaunch, add_row_parts_kernel, sddmm_mma_kernel};
use crate::cube::buffer::partial_sums;
use crate::cube::context::Context;
use crate::cube::split_k::ADD_UNITS;

/// Launches the product with its rows split into `parts` parts.
pub(crate) fn launch(ctx: &Context, plan: Blueprint, parts: usize, tensors: Tensors) {
    if parts == 1 {
        return product(ctx, plan, 1, tensors, ctx.dtype);
    }
    let Tensors { x, dy, out: dw, m } = tensors;
    let values = ctx.pattern.value_count();
    let partial = partial_sums(ctx.client, parts * values);
    let sums = ElemType::Float(FloatKind::F32);
    product(ctx, plan, parts, Tensors { x, dy, out: partial.arg(), m }, sums);
    let vectors = values / 4;
    // SAFETY: `partial` holds `parts` arrays and `dw` one of `values` elements; units beyond it do nothing.
    unsafe {
        add_row_parts_kernel::launch_unchecked(
            ctx.client,
            ctx.cubes(vectors.div_ceil(ADD_UNITS)),
            CubeDim::new_1d(ADD_UNITS as u32),
            AddressType::from_len(partial.len()),
            partial.arg(),
            dw,
            vectors,
            parts,
            ctx.dtype,
        );
    }
}

fn product(ctx: &Context, plan: Blueprint, parts: usize, tensors: Tensors, out_type: ElemType) {
    let Tensors { x, dy, out, m } = tensors;
    let (index, shape) = (ctx.index(), ctx.pattern.shape());
    let groups = GroupIndex::of(ctx.pattern, ctx.client, plan.group());
    let cubes = groups.count * parts;
    let longest = x.len().max(dy.len()).max(out.len());
    let values = ctx.pattern.value_count();
    // SAFETY: every read of `x` and `dy` is guarded by `m`, `k` and `n`, which the buffers were checked
    // against; slots come from a `BlockPattern` and are inside `out`. The loops are bounded by `m`.
    unsafe {
        sddmm_mma_kernel::launch_unchecked(
            ctx.client,
            ctx.cubes(cubes),
            CubeDim::new_1d(plan.tile.units() as u32),
            AddressType::from_len(longest),
            index.bindable(x),
            index.bindable(dy),
            index.row_idx.arg(),
            index.col_of_slot.arg(),
            groups.starts.arg(),
            out,
            SampledSizesLaunch::new(m, shape.rows(), shape.cols(), values, parts),
            cubes,
            plan,
            ctx.dtype,
            out_type,
        );
    }
}
