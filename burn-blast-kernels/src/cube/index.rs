//! A pattern's indices on a device, uploaded once.

use std::sync::Arc;

use cubecl::prelude::*;
use cubecl::server::Handle;

use super::gated::task;
use super::mma::pieces::base::Cut;
use crate::BlockPattern;
use crate::pattern::WeakPattern;

/// Slot number of a block that is not kept.
pub(super) const ABSENT: u32 = u32::MAX;

/// One `u32` array on the device.
#[derive(Clone)]
pub(super) struct IndexBuffer {
    handle: Handle,
    len: usize,
}

impl IndexBuffer {
    /// An empty array becomes a single zero, since a binding must not be empty.
    pub(super) fn upload(client: &Client, data: &[u32]) -> Self {
        let data = if data.is_empty() { &[0] } else { data };
        Self { handle: client.create_from_slice(u32::as_bytes(data)), len: data.len() }
    }

    pub(super) fn arg(&self) -> BufferArg {
        // SAFETY: `len` is the length the buffer was created with.
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), self.len) }
    }
}

/// Device copies of a pattern's two views and of its work order.
pub(super) struct PatternIndex {
    client: Client,
    pub(super) col_ptr: IndexBuffer,
    pub(super) row_idx: IndexBuffer,
    pub(super) row_ptr: IndexBuffer,
    pub(super) col_idx: IndexBuffer,
    pub(super) slot: IndexBuffer,
    pub(super) cols_by_length: IndexBuffer,
    pub(super) rows_by_length: IndexBuffer,
    pub(super) col_of_slot: IndexBuffer,
    empty: IndexBuffer,
}

impl PatternIndex {
    /// The copies on the client's device; made on first use and kept with the pattern.
    pub(super) fn of(pattern: &BlockPattern, client: &Client) -> Arc<Self> {
        let here = |index: &Self| index.client.service_id() == client.service_id();
        pattern.attached(here, || Self::new(pattern, client))
    }

    fn new(pattern: &BlockPattern, client: &Client) -> Self {
        let upload = |data: &[u32]| IndexBuffer::upload(client, data);
        let order = pattern.work_order();
        Self {
            client: client.clone(),
            col_ptr: upload(pattern.col_ptr()),
            row_idx: upload(pattern.row_idx()),
            row_ptr: upload(pattern.row_ptr()),
            col_idx: upload(pattern.col_idx()),
            slot: upload(pattern.slot()),
            cols_by_length: upload(&order.cols_by_length),
            rows_by_length: upload(&order.rows_by_length),
            col_of_slot: upload(&order.col_of_slot),
            // As long as the widest vector a kernel could read from it.
            empty: upload(&[0; 4]),
        }
    }

    /// `arg`, or a stand-in if it has no elements: a binding must not be empty. Kernels never read it.
    pub(super) fn bindable(&self, arg: BufferArg) -> BufferArg {
        if arg.is_empty() { self.empty.arg() } else { arg }
    }
}

/// Slot of each block of the grid, [`ABSENT`] where there is none. Only unpacking asks for it.
pub(super) struct GridIndex {
    client: Client,
    pub(super) slot_of_block: IndexBuffer,
}

impl GridIndex {
    /// The copy on the client's device; made on first use and kept with the pattern.
    pub(super) fn of(pattern: &BlockPattern, client: &Client) -> Arc<Self> {
        let here = |index: &Self| index.client.service_id() == client.service_id();
        pattern.attached(here, || {
            let slots: Vec<u32> =
                pattern.slots_by_index().into_iter().map(|slot| slot.unwrap_or(ABSENT)).collect();
            Self { client: client.clone(), slot_of_block: IndexBuffer::upload(client, &slots) }
        })
    }
}

/// Runs of slots that one cube of a sampled product computes.
pub(super) struct GroupIndex {
    client: Client,
    group: usize,
    /// Number of runs.
    pub(super) count: usize,
    /// First slot of each run, and the end of the last.
    pub(super) starts: IndexBuffer,
}

impl GroupIndex {
    /// The runs of at most `group` slots that `starts` makes of the column pointers; made on first use and
    /// kept with the pattern.
    pub(super) fn of(
        pattern: &BlockPattern,
        client: &Client,
        group: usize,
        starts: impl FnOnce(&[u32], usize) -> Vec<u32>,
    ) -> Arc<Self> {
        let here =
            |index: &Self| index.group == group && index.client.service_id() == client.service_id();
        pattern.attached(here, || {
            let starts = starts(pattern.col_ptr(), group);
            let (client, count) = (client.clone(), starts.len() - 1);
            Self { starts: IndexBuffer::upload(&client, &starts), client, group, count }
        })
    }
}

/// A pattern's lines with the long ones cut.
pub(super) struct PieceIndex {
    client: Client,
    /// Whether lines are block rows, and the most blocks of a piece.
    key: (bool, usize),
    /// Number of pieces.
    pub(super) count: usize,
    /// Four numbers for each piece, as [`Cut`] has them.
    pub(super) pieces: IndexBuffer,
    /// Number of lines that are cut.
    pub(super) cut_lines: usize,
    /// Three numbers for each line that is cut.
    pub(super) lines: IndexBuffer,
    /// Number of partial sums.
    pub(super) partials: usize,
}

impl PieceIndex {
    /// The pieces for `key`, as `cut` makes them; made on first use and kept with the pattern.
    pub(super) fn of(
        pattern: &BlockPattern,
        client: &Client,
        key: (bool, usize),
        cut: impl FnOnce() -> Cut,
    ) -> Arc<Self> {
        let here =
            |index: &Self| index.key == key && index.client.service_id() == client.service_id();
        pattern.attached(here, || {
            let cut = cut();
            Self {
                client: client.clone(),
                key,
                count: cut.pieces.len(),
                pieces: IndexBuffer::upload(client, cut.pieces.as_flattened()),
                cut_lines: cut.lines.len(),
                lines: IndexBuffer::upload(client, cut.lines.as_flattened()),
                partials: cut.partials,
            }
        })
    }
}

/// The work of a gated block on a device: see [`task`].
pub(super) struct GatedIndex {
    client: Client,
    up: WeakPattern,
    pub(super) tasks: IndexBuffer,
}

impl GatedIndex {
    /// The copy on the client's device for these two patterns of one size; made on first use and kept with the
    /// pattern of the gate, until that of up is gone.
    pub(super) fn of(gate: &BlockPattern, up: &BlockPattern, client: &Client) -> Arc<Self> {
        let alive = |index: &Self| index.up.is_alive();
        let here =
            |index: &Self| index.client.service_id() == client.service_id() && index.up.is(up);
        gate.attached_while(alive, here, || Self {
            client: client.clone(),
            up: up.downgrade(),
            tasks: IndexBuffer::upload(client, &task::tasks(gate, up)),
        })
    }
}
