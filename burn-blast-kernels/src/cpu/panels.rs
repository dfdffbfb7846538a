//! Rows of an input rearranged into panels, one contiguous piece for each of its block columns.

use std::ops::Range;

use rayon::prelude::*;

use super::Values;
use super::arithmetic::Words;
use super::dot::{write_pairs_of_rows, write_rows_of_pairs, write_rows_of_quads};
use super::tasks::SharedOut;

/// What the words of a panel hold, and which dimension the product sums over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// `[rows, b]` of `f32`, for sums over either.
    Singles,
    /// `[rows, b / 2]` pairs of neighbours in a row, for sums over the columns.
    RowsOfPairs,
    /// `[rows / 2, b]` pairs of neighbours in a column, for sums over the rows.
    PairsOfRows,
    /// `[rows, b / 4]` quads of neighbours in a row and the scale of the row, for sums over the columns.
    RowsOfQuads,
}

impl Layout {
    /// For products with a weight, which sum over the columns.
    pub(super) fn for_product(words: Words) -> Self {
        match words {
            Words::Single => Layout::Singles,
            Words::Pair => Layout::RowsOfPairs,
            Words::Quad => Layout::RowsOfQuads,
        }
    }

    /// For the gradient of a weight, which sums over the rows.
    pub(super) fn for_gradient(words: Words) -> Self {
        match words {
            Words::Single => Layout::Singles,
            Words::Pair => Layout::PairsOfRows,
            Words::Quad => unreachable!("gradients are of floating-point numbers"),
        }
    }

    pub(super) fn words(self) -> Words {
        match self {
            Layout::Singles => Words::Single,
            Layout::RowsOfPairs | Layout::PairsOfRows => Words::Pair,
            Layout::RowsOfQuads => Words::Quad,
        }
    }

    /// Rows of words of a panel of `rows` rows, and words of such a row.
    #[inline(always)]
    fn shape(self, rows: usize, b: usize) -> [usize; 2] {
        match self {
            Layout::PairsOfRows => [rows.div_ceil(2), b],
            _ => [rows, self.words().row_len(b)],
        }
    }

    /// Words of a panel of `rows` rows.
    pub(super) fn panel_len(self, rows: usize, b: usize) -> usize {
        let [rows, words] = self.shape(rows, b);
        rows * words
    }

    /// Words in the panels of `rows` rows of `width` elements.
    pub(super) fn panels_len(self, rows: usize, width: usize, b: usize) -> usize {
        self.panel_len(rows, b) * width.div_ceil(b)
    }
}

/// Rows of an input as `[inner blocks, rows, b]`, each panel in a [`Layout`].
///
/// In the input itself, the rows of a block column are its width apart, often a large power of two that maps them all to
/// the same cache sets. In a panel they are next to each other.
#[derive(Clone, Copy)]
pub(super) struct Panels {
    ptr: *const f32,
    rows: usize,
    /// Rows of words.
    word_rows: usize,
    layout: Layout,
}

// SAFETY: a view of a buffer that outlives the tasks, only read while it is shared.
unsafe impl Send for Panels {}
unsafe impl Sync for Panels {}

impl Panels {
    /// `buffer` as panels of `rows` rows.
    pub(super) fn new(buffer: &[f32], rows: usize, layout: Layout) -> Self {
        let [word_rows, _] = layout.shape(rows, 0);
        Self { ptr: buffer.as_ptr(), rows, word_rows, layout }
    }

    /// `buffer` as panels of `rows` rows, when no task writes there any more.
    pub(super) fn shared(buffer: SharedOut, rows: usize, layout: Layout) -> Self {
        // SAFETY: the start of the buffer.
        let ptr = unsafe { buffer.at(0) };
        Self { ptr, ..Self::new(&[], rows, layout) }
    }

    pub(super) fn rows(self) -> usize {
        self.rows
    }

    pub(super) fn words(self) -> Words {
        self.layout.words()
    }

    /// Rows of words: one for two rows, in pairs of rows.
    #[inline(always)]
    pub(super) fn word_rows(self) -> usize {
        self.word_rows
    }

    /// A single panel.
    pub(super) fn panel(self, block: usize, b: usize) -> Self {
        let ptr = self.ptr.wrapping_add(block * self.layout.panel_len(self.rows, b));
        Self { ptr, ..self }
    }

    /// First word of word row `row` of inner block `block`, where a word row has `words`.
    ///
    /// # Safety
    /// Both must be inside the panels.
    #[inline(always)]
    pub(super) unsafe fn at(self, block: usize, row: usize, words: usize) -> *const f32 {
        // SAFETY: the caller's.
        unsafe { self.ptr.add((block * self.word_rows + row) * words) }
    }
}

/// Copies the block columns `cols` of the rows `rows` of `x [m, width]` to consecutive panels.
///
/// The padding of the last panel becomes zero in pairs. It is not written in `f32`, because products do not read it.
#[inline(always)]
pub(super) fn write_panels(
    x: Values<'_>,
    width: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    b: usize,
    layout: Layout,
    panels: &mut [f32],
) {
    // Panels of no rows have no length.
    let len = layout.panel_len(rows.len(), b).max(1);
    for (panel, col) in panels.chunks_exact_mut(len).zip(cols) {
        write_panel(x, width, rows.clone(), col * b..width.min((col + 1) * b), b, layout, panel);
    }
}

/// Copies the columns `cols` of the rows `rows` of `x [m, width]` to a panel.
#[inline(always)]
pub(super) fn write_panel(
    x: Values<'_>,
    width: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    b: usize,
    layout: Layout,
    panel: &mut [f32],
) {
    let words = layout.shape(rows.len(), b)[1];
    match layout {
        Layout::Singles => {
            for (row, to) in rows.zip(panel.chunks_exact_mut(b)) {
                x.widen_at(row * width + cols.start, &mut to[..cols.len()]);
            }
        }
        // SAFETY: pairs exist only where there are dot products.
        Layout::RowsOfPairs => unsafe { write_rows_of_pairs(x, width, rows, cols, words, panel) },
        // SAFETY: as above.
        Layout::PairsOfRows => unsafe { write_pairs_of_rows(x, width, rows, cols, words, panel) },
        // SAFETY: quads exist only where there are their dot products.
        Layout::RowsOfQuads => unsafe { write_rows_of_quads(x, width, rows, cols, b, panel) },
    }
}

/// Copies all block columns of the rows `rows` of `x [m, width]` to panels, with zeros as padding.
pub(super) fn write_all_panels(
    x: Values<'_>,
    width: usize,
    rows: Range<usize>,
    b: usize,
    layout: Layout,
    panels: &mut [f32],
    threads: usize,
) {
    if panels.is_empty() {
        return;
    }
    let len = layout.panel_len(rows.len(), b);
    let write = |(col, panel): (usize, &mut [f32])| {
        if (col + 1) * b > width {
            panel.fill(0.0);
        }
        write_panels(x, width, rows.clone(), col..col + 1, b, layout, panel);
    };
    if threads == 1 {
        panels.chunks_exact_mut(len).enumerate().for_each(write);
    } else {
        panels.par_chunks_exact_mut(len).enumerate().for_each(write);
    }
}
