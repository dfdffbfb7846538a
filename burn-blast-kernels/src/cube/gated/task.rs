//! The index of a gated block: for each block column, the blocks of gate and up that it sums.
//!
//! One array, since a WebGPU device may bind as few as eight buffers per launch:
//!
//! ```text
//! [column, rows, gate count, gate slot, up count, up slot] for each block column, most blocks first
//! [block rows of gate, block rows of up]                 for each of them, from `rows` on
//! ```

use std::cmp::Reverse;
use std::sync::Arc;

use cubecl::prelude::*;

use crate::BlockPattern;
use crate::cube::context::Context;
use crate::cube::index::{IndexBuffer, OnDevice};

/// Numbers of one task.
const TASK: usize = 6;

/// The array for two patterns of one size. Columns are in the order of their blocks in both; ties by index.
pub(crate) fn tasks(gate: &BlockPattern, up: &BlockPattern) -> Vec<u32> {
    let blocks = |pattern: &BlockPattern, col: usize| {
        pattern.col_ptr()[col] as usize..pattern.col_ptr()[col + 1] as usize
    };
    let mut order: Vec<usize> = (0..gate.block_cols()).collect();
    order.sort_by_key(|&col| Reverse(blocks(gate, col).len() + blocks(up, col).len()));
    let mut index = Vec::with_capacity(order.len() * TASK + gate.nnz() + up.nnz());
    let mut rows = order.len() * TASK;
    for &col in &order {
        let (gate, up) = (blocks(gate, col), blocks(up, col));
        let numbers = [col, rows, gate.len(), gate.start, up.len(), up.start];
        index.extend(numbers.map(|number| number as u32));
        rows += gate.len() + up.len();
    }
    for &col in &order {
        index.extend(&gate.row_idx()[blocks(gate, col)]);
        index.extend(&up.row_idx()[blocks(up, col)]);
    }
    index
}

/// What one cube sums.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Task {
    /// Block column of both weights.
    pub column: usize,
    /// Start of the block rows of the gate in the index; the block rows of up follow.
    pub rows: usize,
    /// Blocks of the gate.
    pub gate_count: usize,
    /// Value slot of the first.
    pub gate_slot: usize,
    /// Blocks of up.
    pub up_count: usize,
    /// Value slot of the first.
    pub up_slot: usize,
}

/// Reads one task.
#[cube]
pub(crate) fn read_task(index: &[u32], number: usize) -> Task {
    let at = number * TASK;
    Task {
        column: index[at] as usize,
        rows: index[at + 1] as usize,
        gate_count: index[at + 2] as usize,
        gate_slot: index[at + 3] as usize,
        up_count: index[at + 4] as usize,
        up_slot: index[at + 5] as usize,
    }
}

/// [`tasks`] on a device.
pub(crate) struct TaskIndex(pub IndexBuffer);

impl TaskIndex {
    /// The tasks of the gate, whose pattern is the one of the context, and of up.
    pub(crate) fn of(ctx: &Context, up: &BlockPattern) -> Arc<OnDevice<(), Self>> {
        OnDevice::of(ctx.pattern, Some(up), ctx.client, (), || {
            Self(IndexBuffer::upload(ctx.client, &tasks(ctx.pattern, up)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockMask, BlockSize, MatrixShape};

    fn pattern(blocks: &[(usize, usize)]) -> BlockPattern {
        let shape = MatrixShape::new(24, 24).unwrap();
        let mut mask = BlockMask::empty(shape, BlockSize::new(8).unwrap());
        blocks.iter().for_each(|&(row, col)| mask.set(row, col, true));
        BlockPattern::from_mask(&mask)
    }

    #[test]
    fn the_column_with_most_blocks_of_both_comes_first() {
        let gate = pattern(&[(0, 0), (2, 0), (1, 2)]);
        let up = pattern(&[(0, 2), (1, 2), (2, 2)]);
        assert_eq!(
            tasks(&gate, &up),
            [
                [2, 18, 1, 2, 3, 0].as_slice(),
                &[0, 22, 2, 0, 0, 0],
                &[1, 24, 0, 2, 0, 0],
                &[1, 0, 1, 2],
                &[0, 2]
            ]
            .concat()
        );
    }
}
