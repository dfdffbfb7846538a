//! `xᵀ · dy`: at the kept blocks, or as one norm per block of the grid.

use std::sync::Arc;

use cubecl::prelude::*;

use super::context::Context;
use super::index::{IndexBuffer, OnDevice};

pub(super) mod launch;

/// Register tiles.
pub(super) mod unit {
    pub(crate) mod base;
    pub(crate) mod kernel;
}

/// Tensor cores.
pub(super) mod mma {
    pub(crate) mod base;
    pub(crate) mod kernel;
}

/// Cooperative matrices.
pub(super) mod cmma {
    pub(crate) mod base;
    pub(crate) mod kernel;
}

/// The tensors of a sampled product over `m` rows.
pub(super) struct Tensors {
    pub x: BufferArg,
    pub dy: BufferArg,
    /// Gradients of the values, or norms.
    pub out: BufferArg,
    pub m: usize,
}

/// Number of runs of at most `group` slots within a block column.
pub(super) fn groups(col_ptr: &[u32], group: usize) -> usize {
    col_ptr.windows(2).map(|ends| ((ends[1] - ends[0]) as usize).div_ceil(group)).sum()
}

/// First slot of each such run, and the end of the last.
pub(super) fn group_starts(col_ptr: &[u32], group: usize) -> Vec<u32> {
    let mut starts: Vec<u32> =
        col_ptr.windows(2).flat_map(|column| (column[0]..column[1]).step_by(group)).collect();
    starts.push(*col_ptr.last().expect("column pointers start with a zero"));
    starts
}

/// The runs on a device: one cube computes one of them.
pub(super) struct GroupIndex {
    /// Number of runs.
    pub count: usize,
    /// [`group_starts`].
    pub starts: IndexBuffer,
}

impl GroupIndex {
    /// The runs of at most `group` slots.
    pub(super) fn of(ctx: &Context, group: usize) -> Arc<OnDevice<usize, Self>> {
        OnDevice::of(ctx.pattern, None, ctx.client, group, || {
            let starts = group_starts(ctx.pattern.col_ptr(), group);
            Self { count: starts.len() - 1, starts: IndexBuffer::upload(ctx.client, &starts) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_stay_within_a_column() {
        let table: [(&[u32], usize, &[u32]); 3] = [
            (&[0, 5, 5, 6, 8], 2, &[0, 2, 4, 5, 6, 8]),
            (&[0, 5, 5, 6, 8], 1, &[0, 1, 2, 3, 4, 5, 6, 7, 8]),
            (&[0, 0, 0], 4, &[0]),
        ];
        for (col_ptr, group, want) in table {
            assert_eq!(group_starts(col_ptr, group), want);
            assert_eq!(groups(col_ptr, group), want.len() - 1);
        }
    }
}
