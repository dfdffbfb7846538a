//! Whole output rows, block column by block column, with what is done to the sums before they are written.

use std::ops::Range;
use std::slice::from_raw_parts_mut;

use super::activation::Activation;
use super::factor::{LINE_BYTES, Target, Term, column};
use super::scratch;
use super::tasks::SharedOut;
use super::tile::stream_fence;

/// Smallest output that is written past the caches, about what a core has of the last-level cache: a smaller one
/// is better still there when the next operation reads it. Guess.
const STREAM_BYTES: usize = 4 << 20;

/// What is done to the sums of a product before they are written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a, T> {
    /// Added to every row, `[d_output]`.
    pub bias: Option<&'a [T]>,
    /// Applied last.
    pub activation: Option<Activation>,
}

/// The output of a product, shared by its tasks.
#[derive(Clone, Copy)]
pub(super) struct Output<'a> {
    out: SharedOut,
    outer: usize,
    epilogue: Epilogue<'a, f32>,
    /// Write past the caches: a large output at whole lines, whose elements are not read again here.
    stream: bool,
}

impl<'a> Output<'a> {
    /// An output of `m` rows of `outer` elements.
    pub(super) fn new(out: SharedOut, m: usize, outer: usize, epilogue: Epilogue<'a, f32>) -> Self {
        // SAFETY: the first element.
        let first = unsafe { out.at(0) };
        let stream = m * outer * size_of::<f32>() >= STREAM_BYTES
            && first.addr().is_multiple_of(LINE_BYTES)
            && outer.is_multiple_of(LINE_BYTES / size_of::<f32>())
            && epilogue.activation.is_none();
        Self { out, outer, epilogue, stream }
    }

    /// Writes the block columns `cols` of the rows `rows`: the sum of `terms`, whose panels hold those rows.
    pub(super) fn columns(&self, terms: &[Term<'_>], rows: Range<usize>, cols: Range<usize>) {
        let convert = terms.iter().map(|term| term.right.scratch_len()).max().unwrap_or(0);
        let b = terms[0].right.b();
        scratch::with(convert + rows.len() * b, |buffer| {
            let (convert, edge) = buffer.split_at_mut(convert);
            let mut task = Columns { output: self, terms, b, rows, convert, edge };
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

/// Some output columns of some rows.
struct Columns<'a> {
    output: &'a Output<'a>,
    terms: &'a [Term<'a>],
    b: usize,
    rows: Range<usize>,
    convert: &'a mut [f32],
    /// Room for a column that does not end inside the output.
    edge: &'a mut [f32],
}

impl Columns<'_> {
    fn whole(&mut self, col: usize) {
        let Output { out, outer, epilogue, stream } = *self.output;
        let (b, first) = (self.b, col * self.b);
        // SAFETY: rows and columns of this task are written by no other.
        let ptr = unsafe { out.at(self.rows.start * outer + first) };
        let bias = epilogue.bias.map(|bias| &bias[first..first + b]);
        let target = Target { ptr, stride: outer, bias, stream };
        // SAFETY: the target has room for `rows` rows of a whole block.
        unsafe { column(self.terms, col, target, self.convert) };
        let Some(activation) = epilogue.activation else { return };
        for row in 0..self.rows.len() {
            // SAFETY: just written.
            let line = unsafe { from_raw_parts_mut(ptr.add(row * outer), b) };
            activation.apply(line);
        }
    }

    fn ragged(&mut self, col: usize) {
        let Output { out, outer, epilogue, .. } = *self.output;
        let (b, first) = (self.b, col * self.b);
        let ptr = self.edge.as_mut_ptr();
        let target = Target { ptr, stride: b, bias: None, stream: false };
        // SAFETY: the edge has room for `rows` rows of a whole block.
        unsafe { column(self.terms, col, target, self.convert) };
        for (row, line) in self.edge.chunks_exact_mut(b).enumerate() {
            let line = &mut line[..outer - first];
            for (y, bias) in
                line.iter_mut().zip(epilogue.bias.map_or(&[][..], |bias| &bias[first..]))
            {
                *y += bias;
            }
            if let Some(activation) = epilogue.activation {
                activation.apply(line);
            }
            // SAFETY: rows and columns of this task are written by no other.
            unsafe {
                let to = out.at((self.rows.start + row) * outer + first);
                line.as_ptr().copy_to_nonoverlapping(to, line.len());
            }
        }
    }
}
