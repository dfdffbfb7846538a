//! One launch. The buffers have the sizes that the caller checked.

use std::sync::Arc;

use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

use super::ABSENT;
use super::kernel::{pack_kernel, unpack_kernel};
use crate::BlockPattern;
use crate::cube::context::Context;
use crate::cube::index::IndexBuffer;

/// Slot of each block of the grid, [`ABSENT`] where there is none.
struct GridIndex {
    client: Client,
    slot_of_block: IndexBuffer,
}

impl GridIndex {
    /// The copy on the device of the client; made on first use and kept with the pattern.
    fn of(pattern: &BlockPattern, client: &Client) -> Arc<Self> {
        let here = |index: &Self| index.client.service_id() == client.service_id();
        pattern.attached(here, || {
            let slots: Vec<u32> =
                pattern.slots_by_index().into_iter().map(|slot| slot.unwrap_or(ABSENT)).collect();
            Self { client: client.clone(), slot_of_block: IndexBuffer::upload(client, &slots) }
        })
    }
}

/// Copies the kept blocks of a dense weight to `values`, of which there is one at least.
pub(crate) fn launch_pack(ctx: &Context, dense: BufferArg, values: BufferArg) {
    let (index, shape, count) = (ctx.index(), ctx.pattern.shape(), values.len());
    let units = CubeDim::new(ctx.client, count);
    pack_kernel::launch(
        ctx.client,
        calculate_cube_count_elemwise(ctx.client, count, units),
        units,
        AddressType::from_len(dense.len().max(count)),
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

/// Copies `values` to a dense weight.
pub(crate) fn launch_unpack(ctx: &Context, values: BufferArg, dense: BufferArg) {
    let (index, count) = (ctx.index(), dense.len());
    let grid = GridIndex::of(ctx.pattern, ctx.client);
    let units = CubeDim::new(ctx.client, count);
    unpack_kernel::launch(
        ctx.client,
        calculate_cube_count_elemwise(ctx.client, count, units),
        units,
        AddressType::from_len(values.len().max(count)),
        index.bindable(values),
        grid.slot_of_block.arg(),
        dense,
        ctx.pattern.shape().cols(),
        ctx.pattern.block_cols(),
        count,
        ctx.pattern.block().get(),
        ctx.dtype,
    );
}
