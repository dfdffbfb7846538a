//! The indices of a pattern on a device, uploaded once.

use std::ops::Deref;
use std::sync::Arc;

use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::BlockPattern;
use crate::pattern::WeakPattern;

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

/// Data of a pattern on a device, or of a pattern together with another.
pub(super) struct OnDevice<K, T> {
    client: Client,
    key: K,
    other: Option<WeakPattern>,
    data: T,
}

impl<K, T> OnDevice<K, T>
where
    K: PartialEq + Copy + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    /// The data under this key on the device of the client; made on first use and kept with `pattern` until `other`
    /// is gone.
    pub(super) fn of(
        pattern: &BlockPattern,
        other: Option<&BlockPattern>,
        client: &Client,
        key: K,
        make: impl FnOnce() -> T,
    ) -> Arc<Self> {
        let alive = |entry: &Self| entry.other.as_ref().is_none_or(WeakPattern::is_alive);
        let same = |entry: &Self| match (&entry.other, other) {
            (Some(weak), Some(pattern)) => weak.is(pattern),
            (None, None) => true,
            _ => false,
        };
        let here = |entry: &Self| entry.client.service_id() == client.service_id();
        let other = other.map(BlockPattern::downgrade);
        pattern.attached_while(
            alive,
            |entry: &Self| entry.key == key && here(entry) && same(entry),
            move || Self { client: client.clone(), key, other, data: make() },
        )
    }
}

impl<K, T> Deref for OnDevice<K, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

/// Device copies of the two views of a pattern and of the work orders in its order.
pub(super) struct PatternIndex {
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
    pub(super) fn of(pattern: &BlockPattern, client: &Client) -> Arc<OnDevice<(), Self>> {
        let upload = |data: &[u32]| IndexBuffer::upload(client, data);
        OnDevice::of(pattern, None, client, (), || {
            let order = pattern.work_order();
            Self {
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
        })
    }

    /// `arg`, or a stand-in if it has no elements: a binding must not be empty. Kernels never read it.
    pub(super) fn bindable(&self, arg: BufferArg) -> BufferArg {
        if arg.is_empty() { self.empty.arg() } else { arg }
    }
}
