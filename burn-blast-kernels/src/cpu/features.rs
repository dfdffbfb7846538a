//! Features of some rows inside a feed-forward block, in panels that its tasks write.

use std::ops::Range;

use super::Values;
use super::arithmetic::Words;
use super::panels::{Layout, Operand, Panels, write_all_panels, write_panel};
use super::tasks::SharedOut;

/// Size of features, and what they are read by.
#[derive(Debug, Clone, Copy)]
pub(super) struct FeatureShape {
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) b: usize,
    pub(super) words: Words,
    /// What they are in weight gradients, if these read them too. In pairs that takes a second copy, in `f32` the panels of
    /// products serve.
    pub(super) factor: Option<Operand>,
}

impl FeatureShape {
    fn product(self) -> Layout {
        Layout::new(self.words, Operand::Input)
    }

    fn product_len(self) -> usize {
        self.product().panels_len(self.rows, self.width, self.b)
    }

    /// The layout of the second copy, if there is one.
    fn second(self) -> Option<Layout> {
        let factor = self.factor.filter(|_| self.words != Words::Single)?;
        Some(Layout::new(self.words, factor))
    }

    /// Words of all panels.
    pub(super) fn len(self) -> usize {
        let second = self.second().map(|layout| layout.panels_len(self.rows, self.width, self.b));
        self.product_len() + second.unwrap_or(0)
    }
}

/// Features in a buffer.
#[derive(Clone, Copy)]
pub(super) struct Features {
    shape: FeatureShape,
    product: SharedOut,
    gradient: SharedOut,
}

impl Features {
    /// In the first words of `buffer`. Also returns the rest of it.
    pub(super) fn split(buffer: &mut [f32], shape: FeatureShape) -> (Self, &mut [f32]) {
        let (panels, rest) = buffer.split_at_mut(shape.len());
        let (first, second) = panels.split_at_mut(shape.product_len());
        let product = SharedOut::initialised(first);
        let gradient = shape.second().map(|_| SharedOut::initialised(second));
        (Self { shape, product, gradient: gradient.unwrap_or(product) }, rest)
    }

    /// As the input of products, when they are written.
    pub(super) fn for_product(self) -> Panels {
        Panels::shared(self.product, self.shape.rows, self.shape.product())
    }

    /// As an operand of weight gradients, when they are written.
    pub(super) fn for_gradient(self) -> Panels {
        let layout = self.shape.second().unwrap_or(self.shape.product());
        Panels::shared(self.gradient, self.shape.rows, layout)
    }

    /// Copies the rows `rows` of `x [m, width]`.
    pub(super) fn write_all(self, x: Values<'_>, rows: Range<usize>, threads: usize) {
        let FeatureShape { width, b, .. } = self.shape;
        let write = |to: SharedOut, layout: Layout| {
            // SAFETY: no task reads or writes yet.
            let to = unsafe { to.slice(0, layout.panels_len(rows.len(), width, b)) };
            write_all_panels(x, width, rows.clone(), b, layout, to, threads);
        };
        write(self.product, self.shape.product());
        if let Some(layout) = self.shape.second() {
            write(self.gradient, layout);
        }
    }

    /// Floats of a panel.
    pub(super) fn panel_len(self) -> usize {
        self.shape.rows * self.shape.b
    }

    /// Memory in which panel `col` is computed in `f32`: `room`, of the length of a panel, if it has to be rounded to pairs.
    ///
    /// # Safety
    /// Each panel must belong to one task.
    pub(super) unsafe fn panel(self, col: usize, room: &mut [f32]) -> &mut [f32] {
        match self.shape.words {
            // SAFETY: the caller's.
            Words::Single => unsafe {
                self.product.slice(col * self.panel_len(), self.panel_len())
            },
            Words::Pair | Words::Tile | Words::Quad => room,
        }
    }

    /// Keeps the [`panel`](Self::panel) that was computed.
    ///
    /// # Safety
    /// Each panel must belong to one task.
    pub(super) unsafe fn keep(self, col: usize, panel: &[f32]) {
        let FeatureShape { rows, width, b, words, .. } = self.shape;
        if words == Words::Single {
            return;
        }
        // What a panel has beyond the width is no feature.
        let inside = b.min(width - col * b);
        let write = |to: SharedOut, layout: Layout| {
            let len = layout.panel_len(rows, b);
            // SAFETY: the caller's.
            let to = unsafe { to.slice(col * len, len) };
            write_panel(Values::F32(panel), b, 0..rows, 0..inside, b, layout, to);
        };
        write(self.product, self.shape.product());
        if let Some(layout) = self.shape.second() {
            write(self.gradient, layout);
        }
    }
}
