//! Rows of an input rearranged into panels, one contiguous piece for each of its block columns.

use std::ops::Range;

use rayon::prelude::*;

/// Rows of an input as `[inner blocks, rows, b]`; the last block column is padded.
///
/// In the input itself, the rows of a block column are its width apart, often a large power of two that maps them all to
/// the same cache sets. In a panel they are `b` apart.
#[derive(Clone, Copy)]
pub(super) struct Panels {
    ptr: *const f32,
    rows: usize,
}

// SAFETY: a view of a buffer that outlives the tasks, only read while it is shared.
unsafe impl Send for Panels {}
unsafe impl Sync for Panels {}

impl Panels {
    /// `buffer` as panels of `rows` rows.
    pub(super) fn new(buffer: &[f32], rows: usize) -> Self {
        Self { ptr: buffer.as_ptr(), rows }
    }

    pub(super) fn rows(self) -> usize {
        self.rows
    }

    /// A single panel.
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

/// Floats in the panels of `rows` rows of `width` elements.
pub(super) fn panels_len(rows: usize, width: usize, b: usize) -> usize {
    rows * width.next_multiple_of(b)
}

/// Copies the block columns `cols` of the rows `rows` of `x [m, width]` to consecutive panels.
///
/// The padding of the last panel is not written, because products do not read it.
#[inline(always)]
pub(super) fn write_panels(
    x: &[f32],
    width: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    b: usize,
    panels: &mut [f32],
) {
    // Panels of no rows have no length.
    let len = rows.len().max(1) * b;
    for (panel, col) in panels.chunks_exact_mut(len).zip(cols) {
        let (from, until) = (col * b, width.min((col + 1) * b));
        for (row, to) in rows.clone().zip(panel.chunks_exact_mut(b)) {
            to[..until - from].copy_from_slice(&x[row * width + from..row * width + until]);
        }
    }
}

/// Copies all block columns of the rows `rows` of `x [m, width]` to panels, with zeros as padding.
pub(super) fn write_all_panels(
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
    let len = rows.len() * b;
    let write = |(col, panel): (usize, &mut [f32])| {
        if (col + 1) * b > width {
            panel.fill(0.0);
        }
        write_panels(x, width, rows.clone(), col..col + 1, b, panel);
    };
    if threads == 1 {
        panels.chunks_exact_mut(len).enumerate().for_each(write);
    } else {
        panels.par_chunks_exact_mut(len).enumerate().for_each(write);
    }
}
