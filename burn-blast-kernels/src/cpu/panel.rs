//! Rows regrouped so that one block column of an input lies in one piece.

use rayon::prelude::*;

/// Copies `x [m, width]` into `[width / b, m, b]`, zero beyond the last column.
///
/// A block column of `x` has a row stride of `width`, often a large power of two that maps every row to
/// the same cache sets; here the stride is `b`.
pub(super) fn pack_columns(x: &[f32], m: usize, width: usize, b: usize) -> Vec<f32> {
    let mut panels = vec![0.0; width.div_ceil(b) * m * b];
    panels.par_chunks_mut(m * b).enumerate().for_each(|(col, panel)| {
        let (from, to) = (col * b, width.min((col + 1) * b));
        for (row, out) in panel.chunks_exact_mut(b).enumerate() {
            out[..to - from].copy_from_slice(&x[row * width + from..row * width + to]);
        }
    });
    panels
}
