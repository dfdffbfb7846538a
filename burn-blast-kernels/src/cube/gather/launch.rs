//! One launch. The buffers have the sizes that the caller checked.

use std::sync::Arc;

use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

use super::ABSENT;
use super::kernel::{pack_four_kernel, pack_kernel, unpack_four_kernel, unpack_kernel};
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

/// Copies the kept blocks of a dense weight to `values`, of which there is one at least. With `four`, a unit moves four
/// elements, for which the columns of the weight must be a multiple of 4.
pub(crate) fn launch_pack(ctx: &Context, four: bool, dense: BufferArg, values: BufferArg) {
    let (index, shape, block) = (ctx.index(), ctx.pattern.shape(), ctx.pattern.block().get());
    let address = AddressType::from_len(dense.len().max(values.len()));
    let count = if four { values.len() / 4 } else { values.len() };
    let (cubes, units) = grid(ctx, count);
    let launch = if four { pack_four_kernel::launch } else { pack_kernel::launch };
    launch(
        ctx.client,
        cubes,
        units,
        address,
        dense,
        index.row_idx.arg(),
        index.col_of_slot.arg(),
        values,
        shape.rows(),
        shape.cols(),
        count,
        block,
        ctx.dtype,
    );
}

/// Copies `values` to a dense weight; `four` is as for [`launch_pack`].
pub(crate) fn launch_unpack(ctx: &Context, four: bool, values: BufferArg, dense: BufferArg) {
    let (index, pattern) = (ctx.index(), ctx.pattern);
    let blocks = GridIndex::of(pattern, ctx.client);
    let address = AddressType::from_len(values.len().max(dense.len()));
    let count = if four { dense.len() / 4 } else { dense.len() };
    let (cubes, units) = grid(ctx, count);
    let launch = if four { unpack_four_kernel::launch } else { unpack_kernel::launch };
    launch(
        ctx.client,
        cubes,
        units,
        address,
        index.bindable(values),
        blocks.slot_of_block.arg(),
        dense,
        pattern.shape().cols(),
        pattern.block_cols(),
        count,
        pattern.block().get(),
        ctx.dtype,
    );
}

/// One unit per move.
fn grid(ctx: &Context, count: usize) -> (CubeCount, CubeDim) {
    let units = CubeDim::new(ctx.client, count);
    (calculate_cube_count_elemwise(ctx.client, count, units), units)
}
