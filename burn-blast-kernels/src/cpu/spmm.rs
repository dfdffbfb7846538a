//! Forward product and input gradient: one loop nest over a list of blocks per output block column.
//!
//! Many rows: the input is packed into panels, tasks take a chunk of rows and a range of columns, and a
//! tile keeps its sums in registers over *all* blocks of its column before one store. Few rows: the input
//! is read in place and columns are cut into ranges of equal work.

use std::ops::Range;

use macerator::{AutoArch, Scalar, Simd, WithSimd};
use rayon::prelude::*;

use super::panel::pack_columns;
use super::tile::{Left, Tile, used_lanes};
use super::{HostFloat, MIN_PARALLEL_WORK, SharedOut};
use crate::BlockPattern;
use crate::pattern::equal_work;

/// Rows from which packing the input pays: it costs about a tenth of a call with many rows, and avoids the
/// cache conflicts of power-of-two strides. Measured on an AVX-512 Xeon; the border itself is a guess.
const MIN_PACKED_ROWS: usize = 64;

/// Bytes of one packed chunk of rows: about half of an L2 cache of 1 to 2 MB.
const CHUNK_BYTES: usize = 768 << 10;

/// `y = x · w + bias`.
///
/// # Shapes
/// - `x`: `[m, d_input]`, `values`: `[nnz, b, b]`, `bias`: `[d_output]`
/// - output: `[m, d_output]`
///
/// # Panics
/// If a slice has another length.
pub fn spmm<T: HostFloat>(
    x: &[T],
    values: &[T],
    bias: Option<&[T]>,
    pattern: &BlockPattern,
    m: usize,
) -> Vec<T> {
    let shape = pattern.shape();
    assert_eq!(x.len(), m * shape.rows(), "x must be [m, d_input]");
    assert_eq!(values.len(), pattern.value_count(), "values must be [nnz, b, b]");
    if let Some(bias) = bias {
        assert_eq!(bias.len(), shape.cols(), "bias must be [d_output]");
    }
    let (x, values) = (T::widen(x), T::widen(values));
    let bias = bias.map(T::widen);
    let product = Product {
        x: &x,
        values: &values,
        bias: bias.as_deref(),
        ptr: pattern.col_ptr(),
        idx: pattern.row_idx(),
        slot: None,
        b: pattern.block().get(),
        m,
        inner: shape.rows(),
        outer: shape.cols(),
    };
    T::narrow(product.run())
}

/// `dx = dy · wᵀ`.
///
/// # Shapes
/// - `dy`: `[m, d_output]`, `values`: `[nnz, b, b]`
/// - output: `[m, d_input]`
///
/// # Panics
/// If a slice has another length.
pub fn spmm_t<T: HostFloat>(dy: &[T], values: &[T], pattern: &BlockPattern, m: usize) -> Vec<T> {
    let shape = pattern.shape();
    assert_eq!(dy.len(), m * shape.cols(), "dy must be [m, d_output]");
    assert_eq!(values.len(), pattern.value_count(), "values must be [nnz, b, b]");
    let dy = T::widen(dy);
    let b = pattern.block().get();
    let values = transpose_blocks(&T::widen(values), b);
    let product = Product {
        x: &dy,
        values: &values,
        bias: None,
        ptr: pattern.row_ptr(),
        idx: pattern.col_idx(),
        slot: Some(pattern.slot()),
        b,
        m,
        inner: shape.cols(),
        outer: shape.rows(),
    };
    T::narrow(product.run())
}

fn transpose_blocks(values: &[f32], b: usize) -> Vec<f32> {
    let mut transposed = vec![0.0; values.len()];
    transposed.par_chunks_mut(b * b).zip(values.par_chunks(b * b)).with_min_len(8).for_each(
        |(to, from)| {
            // Tiles of 8 x 8 keep both sides within a few cache lines.
            for row in (0..b).step_by(8) {
                for col in (0..b).step_by(8) {
                    for r in row..row + 8 {
                        for c in col..col + 8 {
                            to[c * b + r] = from[r * b + c];
                        }
                    }
                }
            }
        },
    );
    transposed
}

/// `out[m, outer] = x[m, inner] · blocks (+ bias)`, where output block column `j` sums over the entries
/// `ptr[j]..ptr[j + 1]`: inner block `idx[e]` times value block `slot[e]` (or `e` itself).
struct Product<'a> {
    x: &'a [f32],
    values: &'a [f32],
    bias: Option<&'a [f32]>,
    ptr: &'a [u32],
    idx: &'a [u32],
    slot: Option<&'a [u32]>,
    b: usize,
    m: usize,
    inner: usize,
    outer: usize,
}

/// How the input of a product lies in memory.
#[derive(Clone, Copy)]
struct Input {
    ptr: *const f32,
    row_stride: usize,
    /// From one inner block to the next.
    block_stride: usize,
}

// SAFETY: a view of a slice that outlives the tasks, only read.
unsafe impl Send for Input {}
unsafe impl Sync for Input {}

impl Product<'_> {
    fn run(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.m * self.outer];
        if out.is_empty() {
            return out;
        }
        let shared = SharedOut(out.as_mut_ptr());
        let work = self.m * self.idx.len() * self.b * self.b;
        let threads = if work < MIN_PARALLEL_WORK { 1 } else { rayon::current_num_threads() };
        if self.m < MIN_PACKED_ROWS {
            let input =
                Input { ptr: self.x.as_ptr(), row_stride: self.inner, block_stride: self.b };
            // Several ranges a thread, so that one slow core does not hold up the rest.
            let parts = if threads == 1 { 1 } else { 8 * threads };
            self.each(equal_work(self.ptr, parts), threads, |cols| {
                self.tile_range(input, 0..self.m, cols, shared);
            });
        } else {
            let panels = pack_columns(self.x, self.m, self.inner, self.b);
            let input =
                Input { ptr: panels.as_ptr(), row_stride: self.b, block_stride: self.m * self.b };
            let tasks = self.tasks(threads);
            self.each(tasks, threads, |(rows, cols)| self.tile_range(input, rows, cols, shared));
        }
        out
    }

    fn each<T: Send>(&self, tasks: Vec<T>, threads: usize, run: impl Fn(T) + Send + Sync) {
        if threads == 1 {
            tasks.into_iter().for_each(run);
        } else {
            tasks.into_par_iter().with_max_len(1).for_each(run);
        }
    }

    fn tasks(&self, threads: usize) -> Vec<(Range<usize>, Range<usize>)> {
        // A multiple of every tile height in use, so that only the last chunk has odd rows.
        const STEP: usize = 48;
        let rows = (CHUNK_BYTES / (self.inner * size_of::<f32>()) / STEP).max(1) * STEP;
        let chunks = self.m.div_ceil(rows);
        let cols = equal_work(self.ptr, (4 * threads).div_ceil(chunks));
        let chunk = |at: usize| at * rows..self.m.min((at + 1) * rows);
        (0..chunks).flat_map(|at| cols.iter().map(move |cols| (chunk(at), cols.clone()))).collect()
    }

    fn tile_range(&self, input: Input, rows: Range<usize>, cols: Range<usize>, out: SharedOut) {
        AutoArch::new().dispatch(TileRange { product: self, input, rows, cols, out });
    }

    /// All rows of one chunk times the blocks of one range of columns.
    #[inline(always)]
    fn columns<S: Simd, const MR: usize, const NV: usize, const HALF: bool>(
        &self,
        input: Input,
        rows: Range<usize>,
        cols: Range<usize>,
        out: SharedOut,
    ) {
        let width = NV * used_lanes::<S, HALF>();
        for col in cols {
            for part in (0..self.b).step_by(width) {
                let mut row = rows.start;
                // SAFETY: the rows lie below `m`; see `column_tile`.
                unsafe {
                    while row + MR <= rows.end {
                        self.column_tile::<S, MR, NV, HALF>(input, row, col, part, out);
                        row += MR;
                    }
                    while MR > 4 && row + 4 <= rows.end {
                        self.column_tile::<S, 4, NV, HALF>(input, row, col, part, out);
                        row += 4;
                    }
                    while row + 2 <= rows.end {
                        self.column_tile::<S, 2, NV, HALF>(input, row, col, part, out);
                        row += 2;
                    }
                    if row < rows.end {
                        self.column_tile::<S, 1, NV, HALF>(input, row, col, part, out);
                    }
                }
            }
        }
    }

    /// `MR` rows of one part of an output block column, over all its blocks.
    ///
    /// # Safety
    /// `row + MR <= m`, `part` plus the tile's width is at most `b`, and no other task writes the same
    /// rows of the same column.
    #[inline(always)]
    unsafe fn column_tile<S: Simd, const MR: usize, const NV: usize, const HALF: bool>(
        &self,
        input: Input,
        row: usize,
        col: usize,
        part: usize,
        out: SharedOut,
    ) {
        let (b, width) = (self.b, NV * used_lanes::<S, HALF>());
        let first = col * b + part;
        if first >= self.outer {
            return;
        }
        let mut tile = Tile::<S, MR, NV, HALF>::zero();
        for entry in self.ptr[col] as usize..self.ptr[col + 1] as usize {
            let inner = self.idx[entry] as usize;
            let slot = self.slot.map_or(entry, |slot| slot[entry] as usize);
            // The last inner block may be ragged: what lies beyond it is not read.
            let depth = b.min(self.inner - inner * b);
            // SAFETY: `inner` and `slot` are inside the checked pattern the product was made from.
            unsafe {
                let left = Left {
                    ptr: input.ptr.add(inner * input.block_stride + row * input.row_stride),
                    row_stride: input.row_stride,
                    k_stride: 1,
                };
                tile.accumulate(left, self.values.as_ptr().add(slot * b * b + part), b, depth);
            }
        }
        // SAFETY: whole vectors are stored only where they end inside the row; else through a buffer.
        unsafe {
            if first + width <= self.outer {
                if let Some(bias) = self.bias {
                    tile.add_bias(bias.as_ptr().add(first));
                }
                tile.store(out.at(row * self.outer + first), self.outer);
            } else {
                let mut buffer = [[0.0_f32; 64]; MR];
                tile.store(buffer.as_mut_ptr().cast(), 64);
                for (m, line) in buffer.iter().enumerate() {
                    for n in first..self.outer {
                        let bias = self.bias.map_or(0.0, |bias| bias[n]);
                        *out.at((row + m) * self.outer + n) = line[n - first] + bias;
                    }
                }
            }
        }
    }
}

struct TileRange<'a> {
    product: &'a Product<'a>,
    input: Input,
    rows: Range<usize>,
    cols: Range<usize>,
    out: SharedOut,
}

impl WithSimd for TileRange<'_> {
    type Output = ();

    /// Tile shapes by lanes and block: as many independent sums as hide the latency of a multiply-add and
    /// still fit the registers (32 with 16 lanes and on NEON, 16 elsewhere).
    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Self { product, input, rows, cols, out } = self;
        match (f32::lanes::<S>(), product.b) {
            (16, 8) => product.columns::<S, 16, 1, true>(input, rows, cols, out),
            (16, 16) => product.columns::<S, 16, 1, false>(input, rows, cols, out),
            (16, 32) => product.columns::<S, 12, 2, false>(input, rows, cols, out),
            (16, _) => product.columns::<S, 6, 4, false>(input, rows, cols, out),
            (8, 8) => product.columns::<S, 8, 1, false>(input, rows, cols, out),
            (1, _) => product.columns::<S, 2, 8, false>(input, rows, cols, out),
            _ => product.columns::<S, 6, 2, false>(input, rows, cols, out),
        }
    }
}
