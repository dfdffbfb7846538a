//! The output of a product: its block columns, the bias and the remainder at the right edge.

use std::ops::Range;

use super::macro_kernel::{Target, Term, macro_kernel};
use super::microkernel::stream_fence;
use super::scratch::{self, CACHE_LINE_BYTES, CACHE_LINE_FLOATS};
use super::tasks::SharedOut;

/// Smallest output that is written with non-temporal stores: about the share of a core in the last-level cache. The next
/// operation reads a smaller one faster from there. Guess.
const STREAM_BYTES: usize = 4 << 20;

/// The output `[m, outer]` of a product, shared by its tasks.
#[derive(Clone, Copy)]
pub(super) struct Output<'a> {
    out: SharedOut,
    outer: usize,
    bias: Option<&'a [f32]>,
    /// Use non-temporal stores. Needs a large output in which every row starts at a cache line.
    stream: bool,
}

impl<'a> Output<'a> {
    /// An output of `m` rows of `outer` elements; `bias` is added to every row.
    pub(super) fn new(out: SharedOut, m: usize, outer: usize, bias: Option<&'a [f32]>) -> Self {
        // SAFETY: the first element.
        let first = unsafe { out.at(0) };
        let stream = m * outer * size_of::<f32>() >= STREAM_BYTES
            && first.addr().is_multiple_of(CACHE_LINE_BYTES)
            && outer.is_multiple_of(CACHE_LINE_FLOATS);
        Self { out, outer, bias, stream }
    }

    /// Writes the block columns `cols` of the rows `rows`: the sum of `terms`, whose panels hold these rows.
    pub(super) fn columns(&self, terms: &[Term<'_>], rows: Range<usize>, cols: Range<usize>) {
        let convert = terms.iter().map(|term| term.weight.scratch_len()).max().unwrap_or(0);
        let b = terms[0].weight.b;
        scratch::with(convert + rows.len() * b, |buffer| {
            let (convert, edge) = buffer.split_at_mut(convert);
            for col in cols {
                if (col + 1) * b <= self.outer {
                    self.whole(terms, rows.start, col, convert);
                } else {
                    self.ragged(terms, rows.start, col, convert, edge);
                }
            }
        });
        if self.stream {
            stream_fence();
        }
    }

    /// Writes a block column that is inside the output.
    fn whole(&self, terms: &[Term<'_>], first_row: usize, col: usize, convert: &mut [f32]) {
        let Self { out, outer, bias, stream } = *self;
        let b = terms[0].weight.b;
        let first = col * b;
        // SAFETY: rows and columns of this task are written by no other.
        let ptr = unsafe { out.at(first_row * outer + first) };
        let bias = bias.map(|bias| &bias[first..first + b]);
        let target = Target { ptr, stride: outer, bias, stream };
        // SAFETY: the target has room for the rows of the panels, each of a whole block.
        unsafe { macro_kernel(terms, col, target, convert) };
    }

    /// Writes a block column that exceeds the output, by way of `edge`.
    fn ragged(
        &self,
        terms: &[Term<'_>],
        first_row: usize,
        col: usize,
        convert: &mut [f32],
        edge: &mut [f32],
    ) {
        let Self { out, outer, bias, .. } = *self;
        let b = terms[0].weight.b;
        let first = col * b;
        // SAFETY: the edge has room for the rows of the panels, each of a whole block.
        unsafe { macro_kernel(terms, col, Target::panel(edge, b), convert) };
        let bias = bias.map_or(&[][..], |bias| &bias[first..]);
        for (row, sums) in edge.chunks_exact_mut(b).enumerate() {
            let sums = &mut sums[..outer - first];
            sums.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias);
            // SAFETY: rows and columns of this task are written by no other.
            unsafe {
                let to = out.at((first_row + row) * outer + first);
                sums.as_ptr().copy_to_nonoverlapping(to, sums.len());
            }
        }
    }
}
