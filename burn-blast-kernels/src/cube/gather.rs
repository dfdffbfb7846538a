//! Dense weights to packed values and back.
//!
//! One unit moves one element, or four of a row if rows of the weight are a multiple of 4: a block is, so four are in
//! one row of both.

use std::sync::Arc;

use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

use super::context::Context;
use super::index::{IndexBuffer, OnDevice};

/// Slot number of a block that is not kept.
const ABSENT: u32 = u32::MAX;

/// `values[slot, i, j] = dense[row·b + i, col·b + j]`, zero outside the weight.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn pack_kernel<F: Float, N: Size>(
    dense: &[Vector<F, N>],
    row_of_slot: &[u32],
    col_of_slot: &[u32],
    values: &mut [Vector<F, N>],
    rows: usize,
    cols: usize,
    count: usize,
    #[comptime] block: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= count {
        terminate!();
    }
    let width = N::value();
    let slot = ABSOLUTE_POS / comptime!(block * block / width);
    let inner = ABSOLUTE_POS % comptime!(block * block / width) * width;
    let row = row_of_slot[slot] as usize * block + inner / block;
    let col = col_of_slot[slot] as usize * block + inner % block;
    let mut value = Vector::<F, N>::zeroed();
    if row < rows && col < cols {
        value = dense[(row * cols + col) / width];
    }
    values[ABSOLUTE_POS] = value;
}

/// `dense[row·b + i, col·b + j] = values[slot, i, j]`, zero where no block is kept.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn unpack_kernel<F: Float, N: Size>(
    values: &[Vector<F, N>],
    slot_of_block: &[u32],
    dense: &mut [Vector<F, N>],
    cols: usize,
    block_cols: usize,
    count: usize,
    #[comptime] block: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= count {
        terminate!();
    }
    let width = N::value();
    let row = ABSOLUTE_POS * width / cols;
    let col = ABSOLUTE_POS * width % cols;
    let slot = slot_of_block[(row / block) * block_cols + col / block];
    let mut value = Vector::<F, N>::zeroed();
    if slot != ABSENT {
        value = values[((slot as usize * block + row % block) * block + col % block) / width];
    }
    dense[ABSOLUTE_POS] = value;
}

/// Slot of each block of the grid, [`ABSENT`] where there is none.
struct GridIndex(IndexBuffer);

impl GridIndex {
    fn of(ctx: &Context) -> Arc<OnDevice<(), Self>> {
        OnDevice::of(ctx.pattern, None, ctx.client, (), || {
            let slots = ctx.pattern.slots_by_index().into_iter();
            let slots: Vec<u32> = slots.map(|slot| slot.unwrap_or(ABSENT)).collect();
            Self(IndexBuffer::upload(ctx.client, &slots))
        })
    }
}

/// Copies the kept blocks of a dense weight to `values`, of which there is one at least. A unit moves `width` elements,
/// of which the columns of the weight must be a multiple.
pub(super) fn launch_pack(ctx: &Context, width: usize, dense: BufferArg, values: BufferArg) {
    let (index, shape) = (ctx.index(), ctx.pattern.shape());
    let address = AddressType::from_len(dense.len().max(values.len()));
    let (count, cubes, units) = grid(ctx, values.len() / width);
    pack_kernel::launch(
        ctx.client,
        cubes,
        units,
        address,
        width,
        dense,
        index.row_idx.arg(),
        index.col_of_slot.arg(),
        values,
        shape.rows(),
        shape.cols(),
        count,
        ctx.pattern.block().get(),
        ctx.dtype,
    );
}

/// Copies `values` to a dense weight; `width` is as for [`launch_pack`].
pub(super) fn launch_unpack(ctx: &Context, width: usize, values: BufferArg, dense: BufferArg) {
    let address = AddressType::from_len(values.len().max(dense.len()));
    let (count, cubes, units) = grid(ctx, dense.len() / width);
    unpack_kernel::launch(
        ctx.client,
        cubes,
        units,
        address,
        width,
        ctx.index().bindable(values),
        GridIndex::of(ctx).0.arg(),
        dense,
        ctx.pattern.shape().cols(),
        ctx.pattern.block_cols(),
        count,
        ctx.pattern.block().get(),
        ctx.dtype,
    );
}

/// One unit per move.
fn grid(ctx: &Context, count: usize) -> (usize, CubeCount, CubeDim) {
    let units = CubeDim::new(ctx.client, count);
    (count, calculate_cube_count_elemwise(ctx.client, count, units), units)
}
