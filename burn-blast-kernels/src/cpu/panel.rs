//! Rows regrouped so that one block column of an input lies in one piece.

use std::ops::Range;

use rayon::prelude::*;

/// Rows of an input as `[inner blocks, rows, b]`, the last block column padded.
///
/// A block column of the input itself has a row stride of its width, often a large power of two that maps every
/// row to the same cache sets; here the stride is `b`.
#[derive(Clone, Copy)]
pub(super) struct Panels {
    ptr: *const f32,
    rows: usize,
}

// SAFETY: a view of a buffer that outlives the tasks, only read while it is shared.
unsafe impl Send for Panels {}
unsafe impl Sync for Panels {}

impl Panels {
    /// The view of `buffer` as panels of `rows` rows.
    pub(super) fn new(buffer: &[f32], rows: usize) -> Self {
        Self { ptr: buffer.as_ptr(), rows }
    }

    pub(super) fn rows(self) -> usize {
        self.rows
    }

    /// One panel alone.
    pub(super) fn panel(self, block: usize, b: usize) -> Self {
        Self { ptr: self.ptr.wrapping_add(block * self.rows * b), rows: self.rows }
    }

    /// First element of row `row` of inner block `block`.
    ///
    /// # Safety
    /// Both must be inside the panels.
    #[inline(always)]
    pub(super) unsafe fn at(self, block: usize, row: usize, b: usize) -> *const f32 {
        // SAFETY: the caller's.
        unsafe { self.ptr.add((block * self.rows + row) * b) }
    }
}

/// Floats of the panels of `rows` rows of `width` elements.
pub(super) fn panel_len(rows: usize, width: usize, b: usize) -> usize {
    rows * width.next_multiple_of(b)
}

/// Copies block columns `cols` of the rows `rows` of `x [m, width]` to the panels that start at `to`.
///
/// What lies beyond the last column is left as it is: products do not read it.
#[inline(always)]
pub(super) fn pack(
    x: &[f32],
    width: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    b: usize,
    to: &mut [f32],
) {
    // Panels of no rows have no length.
    let len = rows.len().max(1) * b;
    for (panel, col) in to.chunks_exact_mut(len).zip(cols) {
        let (from, until) = (col * b, width.min((col + 1) * b));
        for (row, line) in rows.clone().zip(panel.chunks_exact_mut(b)) {
            line[..until - from].copy_from_slice(&x[row * width + from..row * width + until]);
        }
    }
}

/// All panels of some rows of `x [m, width]`, zero beyond the last column.
pub(super) fn pack_all(
    x: &[f32],
    width: usize,
    rows: Range<usize>,
    b: usize,
    panels: &mut [f32],
    threads: usize,
) {
    if panels.is_empty() {
        return;
    }
    let panel_len = rows.len() * b;
    let fill = |(col, panel): (usize, &mut [f32])| {
        if (col + 1) * b > width {
            panel.fill(0.0);
        }
        pack(x, width, rows.clone(), col..col + 1, b, panel);
    };
    if threads == 1 {
        panels.chunks_exact_mut(panel_len).enumerate().for_each(fill);
    } else {
        panels.par_chunks_exact_mut(panel_len).enumerate().for_each(fill);
    }
}
