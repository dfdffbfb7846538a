//! The output of a product: its block columns, the bias and the remainder at the right edge.

use std::ops::Range;

use macerator::{AutoArch, Simd, WithSimd};

use super::dot::{has_dot_products, stream_rounded};
use super::macro_kernel::{Target, Term, macro_kernel};
use super::microkernel::stream_fence;
use super::scratch::{self, CACHE_LINE_BYTES};
use super::tasks::SharedOut;
use super::values::{HostFloat, as_bf16, as_f32};

/// Smallest output that is written with non-temporal stores: about the share of a core in the last-level cache. The next
/// operation reads a smaller one faster from there. Guess.
const STREAM_BYTES: usize = 4 << 20;

/// The output `[m, outer]` of a product, shared by its tasks.
#[derive(Clone, Copy)]
pub(super) struct Output<'a, T> {
    out: SharedOut<T>,
    outer: usize,
    bias: Option<&'a [f32]>,
    /// Use non-temporal stores. Needs a large output in which every row starts at a cache line.
    stream: bool,
}

impl<'a, T: HostFloat> Output<'a, T> {
    /// An output of `m` rows of `outer` elements; `bias` is added to every row.
    pub(super) fn new(out: SharedOut<T>, m: usize, outer: usize, bias: Option<&'a [f32]>) -> Self {
        // SAFETY: the first element.
        let first = unsafe { out.at(0) };
        let stream = (as_f32(first).is_some() || as_bf16(first).is_some() && has_dot_products())
            && m * outer * size_of::<T>() >= STREAM_BYTES
            && first.addr().is_multiple_of(CACHE_LINE_BYTES)
            && (outer * size_of::<T>()).is_multiple_of(CACHE_LINE_BYTES);
        Self { out, outer, bias, stream }
    }

    /// Writes the block columns `cols` of the rows `rows`: the sum of `terms`, whose panels hold these rows.
    pub(super) fn columns(&self, terms: &[Term<'_>], rows: Range<usize>, cols: Range<usize>) {
        let convert = terms.iter().map(|term| term.weight.scratch_len()).max().unwrap_or(0);
        let b = terms[0].weight.b;
        scratch::with(convert + rows.len() * b, |buffer| {
            let (convert, edge) = buffer.split_at_mut(convert);
            for col in cols {
                // SAFETY: rows and columns of this task are written by no other.
                let to = unsafe { self.out.at(rows.start * self.outer + col * b) };
                match as_f32(to) {
                    Some(to) if (col + 1) * b <= self.outer => self.whole(terms, col, to, convert),
                    _ => self.by_way_of(edge, terms, rows.start, col, convert),
                }
            }
        });
        if self.stream {
            stream_fence();
        }
    }

    /// Writes a block column that is inside an output of `f32` to `to`.
    fn whole(&self, terms: &[Term<'_>], col: usize, to: *mut f32, convert: &mut [f32]) {
        let b = terms[0].weight.b;
        let bias = self.bias.map(|bias| &bias[col * b..(col + 1) * b]);
        let target = Target { ptr: to, stride: self.outer, bias, stream: self.stream };
        // SAFETY: the target has room for the rows of the panels, each of a whole block.
        unsafe { macro_kernel(terms, col, target, convert) };
    }

    /// Writes a block column that exceeds the output, or whose sums are rounded, by way of `sums`.
    fn by_way_of(
        &self,
        sums: &mut [f32],
        terms: &[Term<'_>],
        first_row: usize,
        col: usize,
        convert: &mut [f32],
    ) {
        let Self { outer, bias, .. } = *self;
        let b = terms[0].weight.b;
        let (first, until) = (col * b, outer.min((col + 1) * b));
        // SAFETY: the sums have room for the rows of the panels, each of a whole block.
        unsafe { macro_kernel(terms, col, Target::panel(sums, b), convert) };
        let bias = bias.map_or(&[][..], |bias| &bias[first..until]);
        // SAFETY: rows and columns of this task are written by no other.
        let to = unsafe { self.out.at(first_row * outer + first) };
        if let (true, true, Some(to)) = (self.stream, until - first == b, as_bf16(to))
            && (b * size_of::<T>()).is_multiple_of(CACHE_LINE_BYTES)
        {
            // SAFETY: the target has room for whole blocks, at cache lines, and there are dot products.
            unsafe { stream_rounded(sums, b, bias, to, outer) };
            return;
        }
        AutoArch::new().dispatch(Rows { sums, b, bias, first_row, first, output: self });
    }
}

/// Adds a bias, or nothing if it is empty.
#[inline(always)]
pub(super) fn add_bias(sums: &mut [f32], bias: &[f32]) {
    sums.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias);
}

/// Rows of sums that are written to the columns from `first` on, with their bias.
struct Rows<'a, T> {
    sums: &'a mut [f32],
    b: usize,
    bias: &'a [f32],
    first_row: usize,
    first: usize,
    output: &'a Output<'a, T>,
}

impl<T: HostFloat> WithSimd for Rows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Output { out, outer, .. } = *self.output;
        let width = self.b.min(outer - self.first);
        for (row, sums) in self.sums.chunks_exact_mut(self.b).enumerate() {
            let sums = &mut sums[..width];
            add_bias(sums, self.bias);
            // SAFETY: rows and columns of this task are written by no other.
            T::write(sums, unsafe {
                out.uninit((self.first_row + row) * outer + self.first, width)
            });
        }
    }
}
