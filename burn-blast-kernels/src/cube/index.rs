//! The indices of a pattern on a device, uploaded once.

use std::sync::Arc;

use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::BlockPattern;

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

/// Device copies of the two views of a pattern and of the work orders in its order.
pub(super) struct PatternIndex {
    client: Client,
    pub col_ptr: IndexBuffer,
    pub row_idx: IndexBuffer,
    pub row_ptr: IndexBuffer,
    pub col_idx: IndexBuffer,
    pub slot: IndexBuffer,
    pub cols_by_length: IndexBuffer,
    pub rows_by_length: IndexBuffer,
    pub col_of_slot: IndexBuffer,
    empty: IndexBuffer,
}

impl PatternIndex {
    /// The copies on the device of the client; made on first use and kept with the pattern.
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
