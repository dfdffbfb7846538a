//! Buffers in, two launches.

use std::sync::Arc;

use cubecl::prelude::*;

use super::base::{cut, longest_bound};
use super::kernel::{add_pieces_kernel, spmm_pieces_kernel};
use crate::cube::call::twice;
use crate::cube::index::{IndexBuffer, PatternIndex, PieceIndex};
use crate::cube::mma::sddmm::base::ADD_UNITS;
use crate::cube::mma::spmm::base::Blueprint;
use crate::cube::spmm::Side;
use crate::cube::{Call, Epilogue};

/// How the lines are cut for this product; `None` if none is long, or if partial sums would need indices
/// that copies which run ahead do not take.
pub(in crate::cube::mma) fn find(
    call: &Call,
    transposed: bool,
    plan: Blueprint,
    m: usize,
) -> Option<Arc<PieceIndex>> {
    let row_tiles = m.div_ceil(plan.tile.rows);
    let bound = longest_bound(call.pattern, transposed, call.offer().compute_units, row_tiles)?;
    let ptr = if transposed { call.pattern.row_ptr() } else { call.pattern.col_ptr() };
    let index = PieceIndex::of(call.pattern, call.client, (transposed, bound), || cut(ptr, bound));
    let narrow = AddressType::from_len(index.partials * m * plan.block) == AddressType::U32;
    narrow.then_some(index)
}

/// Launches the product that `plan` describes over `pieces`, then adds what they left. Buffers have the sizes
/// that the caller checked, and `m` is not zero.
#[allow(clippy::too_many_arguments)]
pub(in crate::cube::mma) fn launch(
    call: &Call,
    index: &PatternIndex,
    pieces: &PieceIndex,
    side: Side,
    plan: Blueprint,
    [x, values, y]: [BufferArg; 3],
    epilogue: Epilogue,
    m: usize,
    address: AddressType,
) {
    let length = pieces.partials * m * plan.block;
    let handle = call.client.empty(length * size_of::<f32>());
    let partial = || {
        // SAFETY: the buffer was made with this length.
        unsafe { BufferArg::from_raw_parts(handle.clone(), length) }
    };
    let cubes = m.div_ceil(plan.tile.rows) * pieces.count;
    let [epilogue, last] = epilogue.twice();
    let [y, rest] = twice(y);
    // SAFETY: every read of `x` and write of `y` is guarded by `m`, `k` and `n`, which the buffers were
    // checked against; indices come from a `BlockPattern`, whose blocks lie inside its grid and whose slots
    // lie inside `values`. Parts are numbered below `partials`, rows of a part are guarded by `m`.
    unsafe {
        spmm_pieces_kernel::launch_unchecked(
            call.client,
            call.cubes(cubes),
            CubeDim::new_1d(plan.tile.units() as u32),
            address,
            x,
            index.bindable(values),
            epilogue.bias.into(),
            pieces.pieces.arg(),
            side.idx.arg(),
            side.slot.map(IndexBuffer::arg).into(),
            epilogue.residual.into(),
            y,
            partial(),
            m,
            side.contraction,
            side.output,
            cubes,
            plan,
            epilogue.activation,
            call.dtype,
        );
    }
    let vectors = pieces.cut_lines * m * plan.block / 4;
    // SAFETY: `partial` holds every part of every line in `lines`; writes are guarded by `n`, and rows by the
    // number of units.
    unsafe {
        add_pieces_kernel::launch_unchecked(
            call.client,
            call.cubes(vectors.div_ceil(ADD_UNITS)),
            CubeDim::new_1d(ADD_UNITS as u32),
            address,
            partial(),
            last.bias.into(),
            pieces.lines.arg(),
            last.residual.into(),
            rest,
            m,
            side.output,
            pieces.cut_lines,
            plan.block,
            last.activation,
            call.dtype,
        );
    }
}
