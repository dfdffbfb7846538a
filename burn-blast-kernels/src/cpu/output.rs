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
        let convert = terms.iter().map(|term| term.right.scratch_len()).max().unwrap_or(0);
        let b = terms[0].right.b;
        scratch::with(convert + rows.len() * b, |buffer| {
            let (convert, edge) = buffer.split_at_mut(convert);
            let mut task = ColumnTask { output: self, terms, b, rows, convert, edge };
            for col in cols {
                if (col + 1) * b <= self.outer {
                    task.whole(col);
                } else {
                    task.ragged(col);
                }
            }
        });
        if self.stream {
            stream_fence();
        }
    }
}

/// Some block columns of some rows of an output.
struct ColumnTask<'a> {
    output: &'a Output<'a>,
    terms: &'a [Term<'a>],
    b: usize,
    rows: Range<usize>,
    convert: &'a mut [f32],
    /// Buffer for a block column that exceeds the output.
    edge: &'a mut [f32],
}

impl ColumnTask<'_> {
    fn whole(&mut self, col: usize) {
        let Output { out, outer, bias, stream } = *self.output;
        let (b, first) = (self.b, col * self.b);
        // SAFETY: rows and columns of this task are written by no other.
        let ptr = unsafe { out.at(self.rows.start * outer + first) };
        let bias = bias.map(|bias| &bias[first..first + b]);
        let target = Target { ptr, stride: outer, bias, stream };
        // SAFETY: the target has room for `rows` rows of a whole block.
        unsafe { macro_kernel(self.terms, col, target, self.convert) };
    }

    fn ragged(&mut self, col: usize) {
        let Output { out, outer, bias, .. } = *self.output;
        let (b, first) = (self.b, col * self.b);
        let ptr = self.edge.as_mut_ptr();
        let target = Target { ptr, stride: b, bias: None, stream: false };
        // SAFETY: the edge has room for `rows` rows of a whole block.
        unsafe { macro_kernel(self.terms, col, target, self.convert) };
        let bias = bias.map_or(&[][..], |bias| &bias[first..]);
        for (row, sums) in self.edge.chunks_exact_mut(b).enumerate() {
            let sums = &mut sums[..outer - first];
            sums.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias);
            // SAFETY: rows and columns of this task are written by no other.
            unsafe {
                let to = out.at((self.rows.start + row) * outer + first);
                sums.as_ptr().copy_to_nonoverlapping(to, sums.len());
            }
        }
    }
}
