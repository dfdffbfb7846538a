//! Buffers in, one launch, or two where rows are split.

use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

use super::base::{ADD_UNITS, Blueprint, group_starts, splits};
use super::kernel::{SizesLaunch, add_splits_kernel, sddmm_mma_kernel};
use crate::cube::Call;
use crate::cube::index::{GroupIndex, PatternIndex};
use crate::cube::mma::offer::Offer;

/// Launches the product that `plan` describes. Buffers have the sizes that the caller checked, and there is
/// a kept block.
pub(crate) fn launch(
    call: &Call,
    index: &PatternIndex,
    offer: &Offer,
    plan: Blueprint,
    [x, dy, dw]: [BufferArg; 3],
    m: usize,
) {
    let groups = GroupIndex::of(call.pattern, call.client, plan.group(), group_starts);
    let values = call.pattern.value_count();
    let splits = splits(offer, m, groups.count);
    // Partial sums stay within the 32-bit indices of copies that run ahead.
    if splits == 1 || AddressType::from_len(splits * values) != AddressType::U32 {
        return product(call, index, &groups, plan, [x, dy, dw], call.dtype, m, 1);
    }
    let handle = call.client.empty(splits * values * size_of::<f32>());
    let partial = || {
        // SAFETY: the buffer was made with this length.
        unsafe { BufferArg::from_raw_parts(handle.clone(), splits * values) }
    };
    let sums = ElemType::Float(FloatKind::F32);
    product(call, index, &groups, plan, [x, dy, partial()], sums, m, splits);
    let vectors = values / 4;
    // SAFETY: `partial` holds `splits` and `dw` one array of `values` elements; units beyond it do nothing.
    unsafe {
        add_splits_kernel::launch_unchecked(
            call.client,
            call.cubes(vectors.div_ceil(ADD_UNITS)),
            CubeDim::new_1d(ADD_UNITS as u32),
            AddressType::from_len(splits * values),
            partial(),
            dw,
            vectors,
            splits,
            call.dtype,
        );
    }
}

#[allow(clippy::too_many_arguments)]
fn product(
    call: &Call,
    index: &PatternIndex,
    groups: &GroupIndex,
    plan: Blueprint,
    [x, dy, out]: [BufferArg; 3],
    out_type: ElemType,
    m: usize,
    splits: usize,
) {
    let shape = call.pattern.shape();
    let cubes = groups.count * splits;
    let longest = x.len().max(dy.len()).max(out.len());
    // SAFETY: every read of `x` and `dy` is guarded by `m`, `k` and `n`, which the buffers were checked
    // against; slots come from a `BlockPattern` and lie inside `out`. The loops are bounded by `m`.
    unsafe {
        sddmm_mma_kernel::launch_unchecked(
            call.client,
            call.cubes(cubes),
            CubeDim::new_1d(plan.tile.units() as u32),
            AddressType::from_len(longest),
            index.bindable(x),
            index.bindable(dy),
            index.row_idx.arg(),
            index.col_of_slot.arg(),
            groups.starts.arg(),
            out,
            SizesLaunch::new(m, shape.rows(), shape.cols(), call.pattern.value_count(), splits),
            cubes,
            plan,
            call.dtype,
            out_type,
        );
    }
}
