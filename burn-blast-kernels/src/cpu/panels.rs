//! Rows of an input rearranged into panels, one contiguous piece for each of its block columns.

use std::ops::Range;

use derive_new::new;
use rayon::prelude::*;

use super::arithmetic::Words;
use super::dot::{write_pairs_of_rows, write_rows_of_pairs, write_rows_of_quads};
use super::tasks::SharedOut;
use super::transpose::transpose;
use super::{Values, amx, scratch};

/// What a panel is in a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operand {
    /// The input of a product with a weight, which sums over the columns.
    Input,
    /// The left factor of the gradient of a weight, which sums over the rows.
    Left,
    /// The right factor of it.
    Right,
}

/// Order of the words of a panel:
///
/// | words | as input | as left factor | as right factor |
/// |---|---|---|---|
/// | single | `[rows, b]` | `[rows, b]` | `[rows, b]` |
/// | pair | `[rows, b / 2]`, of neighbours in a row | `[rows / 2, b]`, of neighbours in a column | as left |
/// | tile | as pairs | `[rows / 32, b, 16]`, of neighbours in a column | `[rows / 2, b]`, rows up to a multiple of 32 |
/// | quad | `[rows, b / 4 + 1]`, of neighbours in a row, with the scale of the row | | |
#[derive(Debug, Clone, Copy, PartialEq, Eq, new)]
pub(super) struct Layout {
    words: Words,
    operand: Operand,
}

impl Layout {
    pub(super) fn words(self) -> Words {
        self.words
    }

    /// Rows of words of a panel of `rows` rows, and words of such a row.
    #[inline(always)]
    fn shape(self, rows: usize, b: usize) -> [usize; 2] {
        match (self.words, self.operand) {
            (Words::Pair, Operand::Left | Operand::Right) => [rows.div_ceil(2), b],
            (Words::Tile, Operand::Left | Operand::Right) => {
                [rows.div_ceil(2).next_multiple_of(amx::SIDE), b]
            }
            _ => [rows, self.words.row_len(b)],
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

    /// Rows of words: half as many as rows in factors of gradients of pairs.
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
    match (layout.words, layout.operand) {
        (Words::Single, _) => {
            for (row, to) in rows.zip(panel.chunks_exact_mut(b)) {
                x.widen_at(row * width + cols.start, &mut to[..cols.len()]);
            }
        }
        // SAFETY: pairs exist only where they can be written.
        (Words::Pair | Words::Tile, Operand::Input) => unsafe {
            write_rows_of_pairs(x, width, rows, cols, words, panel);
        },
        // SAFETY: as above.
        (Words::Tile, Operand::Left) => unsafe {
            write_columns_of_pairs(x, width, rows, cols, b, panel);
        },
        // SAFETY: as above.
        (Words::Pair | Words::Tile, _) => unsafe {
            panel[rows.len().div_ceil(2) * b..].fill(0.0);
            write_pairs_of_rows(x, width, rows, cols, b, panel);
        },
        // SAFETY: quads exist only where there are their dot products.
        (Words::Quad, _) => unsafe { write_rows_of_quads(x, width, rows, cols, b, panel) },
    }
}

/// Writes the left factor of a gradient for the matrix unit: pairs of neighbours in a column, `[rows / 32, b, 16]`, with
/// zeros beyond rows and columns.
///
/// # Safety
/// This machine must be able to write pairs.
unsafe fn write_columns_of_pairs(
    x: Values<'_>,
    width: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    b: usize,
    panel: &mut [f32],
) {
    scratch::with(amx::SIDE * b, |pairs| {
        let starts = rows.clone().step_by(2 * amx::SIDE);
        for (start, to) in starts.zip(panel.chunks_exact_mut(pairs.len())) {
            let some = start..rows.end.min(start + 2 * amx::SIDE);
            pairs[some.len().div_ceil(2) * b..].fill(0.0);
            // SAFETY: the caller's.
            unsafe { write_pairs_of_rows(x, width, some, cols.clone(), b, pairs) };
            transpose(pairs, to, [amx::SIDE, b]);
        }
    });
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
