//! The weight gradient at the kept blocks, and the product of one block that gradient norms use too.

use std::mem::MaybeUninit;

use macerator::{AutoArch, Simd, WithSimd};

use super::amx;
use super::arithmetic::{Arithmetic, TileLoop, Words, run};
use super::dot::words_for;
use super::microkernel::{RegisterTile, Strides, used_lanes, with_tile_shape};
use super::panels::{Layout, Operand, Panels, write_all_panels, write_panels};
use super::scratch;
use super::spmm::filled;
use super::tasks::{SharedOut, run_tasks, task_count, threads_for};
use super::values::{HostFloat, as_f32};
use crate::BlockPattern;
use crate::pattern::equal_work;

/// Rows of words that all tiles of a block sum over before the next rows. Two panels of this height fit the first-level cache at a
/// block size of 32, and the second-level cache at any block size.
const ROWS_PER_PASS: usize = 128;

/// `xᵀ · dy` at the kept blocks.
///
/// # Shapes
/// - `x`: `[m, d_input]`, `dy`: `[m, d_output]`
/// - output: `[nnz, b, b]`, zero where a ragged block is outside the weight
///
/// # Panics
/// If a slice has another length.
pub fn sddmm<T: HostFloat>(x: &[T], dy: &[T], pattern: &BlockPattern, m: usize) -> Vec<T> {
    filled(pattern.value_count(), |out| sddmm_into(x, dy, pattern, m, out))
}

/// [`sddmm`], written to `out`.
///
/// # Shapes
/// - `x`: `[m, d_input]`, `dy`: `[m, d_output]`
/// - `out`: `[nnz, b, b]`, every element is written
///
/// # Panics
/// If a slice has another length.
pub fn sddmm_into<T: HostFloat>(
    x: &[T],
    dy: &[T],
    pattern: &BlockPattern,
    m: usize,
    out: &mut [MaybeUninit<T>],
) {
    assert_eq!(out.len(), pattern.value_count(), "out must be [nnz, b, b]");
    let area = pattern.block().area();
    let (ptr, idx) = (pattern.col_ptr(), pattern.row_idx());
    let out = SharedOut::new(out);
    for_each_column(x, dy, pattern, m, pattern.value_count(), |operands, col| {
        let entries = ptr[col] as usize..ptr[col + 1] as usize;
        for (entry, &row) in entries.clone().zip(&idx[entries]) {
            // SAFETY: each block belongs to one column, each column to one task.
            let to = unsafe { out.at(entry * area) };
            if let Some(to) = as_f32(to) {
                operands.block(row as usize, to, false);
                continue;
            }
            scratch::with(area, |sums| {
                operands.block(row as usize, sums.as_mut_ptr(), false);
                // SAFETY: as above.
                let to = unsafe { out.uninit(entry * area, area) };
                AutoArch::new().dispatch(Written { sums, to });
            });
        }
    });
}

/// Sums that are rounded to the storage type.
struct Written<'a, T> {
    sums: &'a [f32],
    to: &'a mut [MaybeUninit<T>],
}

impl<T: HostFloat> WithSimd for Written<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        T::write(self.sums, self.to);
    }
}

/// Runs `work` for every block column, with `x` and this column of `dy` in panels. It computes `values` elements in all.
pub(super) fn for_each_column<T: HostFloat>(
    x: &[T],
    dy: &[T],
    pattern: &BlockPattern,
    m: usize,
    values: usize,
    work: impl Fn(Operands, usize) + Send + Sync,
) {
    let (shape, b) = (pattern.shape(), pattern.block().get());
    assert_eq!(x.len(), m * shape.rows(), "x must be [m, d_input]");
    assert_eq!(dy.len(), m * shape.cols(), "dy must be [m, d_output]");
    let (x, dy) = (T::values(x), T::values(dy));
    let words = words_for::<T>([x], b);
    let threads = threads_for(words.work(m * values));
    let [left, right] = [Operand::Left, Operand::Right].map(|operand| Layout::new(words, operand));
    scratch::with(left.panels_len(m, shape.rows(), b), |panels| {
        write_all_panels(x, shape.rows(), 0..m, b, left, panels, threads);
        let left = Panels::new(panels, m, left);
        run_tasks(equal_work(pattern.col_ptr(), task_count(threads)), threads, |cols| {
            scratch::with(right.panel_len(m, b), |panel| {
                for col in cols {
                    panel.fill(0.0);
                    write_panels(dy, shape.cols(), 0..m, col..col + 1, b, right, panel);
                    work(Operands { left, right: Panels::new(panel, m, right), b }, col);
                }
            });
        });
    });
}

/// Operands of `xᵀ · dy`: all panels of `x`, one panel of `dy`.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    pub(super) left: Panels,
    pub(super) right: Panels,
    pub(super) b: usize,
}

impl Operands {
    /// Computes the `[b, b]` block of the product in block row `row`, and writes it to `out` or adds it there.
    pub(super) fn block(self, row: usize, out: *mut f32, add: bool) {
        // SAFETY: both operands have the same words and rows, and the caller gives room for a block.
        unsafe {
            if self.left.words() == Words::Tile {
                let panels = [self.left.at(row, 0, self.b), self.right.at(0, 0, self.b)];
                return amx::block_product(panels, self.left.word_rows(), self.b, out, add);
            }
            run(self.left.words(), BlockProduct { operands: self, row, out, add });
        }
    }
}

struct BlockProduct {
    operands: Operands,
    row: usize,
    out: *mut f32,
    add: bool,
}

impl TileLoop for BlockProduct {
    #[inline(always)]
    unsafe fn run<A: Arithmetic>(self) {
        with_tile_shape!(A, self.operands.b, block_product(&self));
    }
}

#[inline(always)]
fn block_product<
    A: Arithmetic,
    const B: usize,
    const MR: usize,
    const NV: usize,
    const HALF: bool,
>(
    product: &BlockProduct,
) {
    let Operands { left, right, .. } = product.operands;
    let rows = left.word_rows();
    let mut start = 0;
    loop {
        let depth = ROWS_PER_PASS.min(rows - start);
        // SAFETY: the panels hold `rows` rows of `B`.
        let (x, dy) = unsafe { (left.at(product.row, start, B), right.at(0, start, B)) };
        let pass = Pass { x, dy, depth, out: product.out, add: product.add || start > 0 };
        let mut k = 0;
        // SAFETY: `k` plus the height of a tile stays within `B`.
        unsafe {
            // A remainder of eight is two tiles of four rather than six and two.
            while B - k >= MR && (MR == 8 || B - k != 8) {
                pass.tiles::<A, B, MR, NV, HALF>(k);
                k += MR;
            }
            while MR > 8 && B - k >= 8 {
                pass.tiles::<A, B, 8, NV, HALF>(k);
                k += 8;
            }
            while B - k >= 4 {
                pass.tiles::<A, B, 4, NV, HALF>(k);
                k += 4;
            }
            while B - k >= 2 {
                pass.tiles::<A, B, 2, NV, HALF>(k);
                k += 2;
            }
        }
        start += depth;
        if start >= rows {
            return;
        }
    }
}

/// A pass over some rows of both panels.
struct Pass {
    x: *const f32,
    dy: *const f32,
    depth: usize,
    out: *mut f32,
    add: bool,
}

impl Pass {
    /// Computes rows `k..k + MR` of the block.
    ///
    /// # Safety
    /// `k + MR <= B`; the panels hold `depth` rows and `out` a block.
    #[inline(always)]
    unsafe fn tiles<
        A: Arithmetic,
        const B: usize,
        const MR: usize,
        const NV: usize,
        const HALF: bool,
    >(
        &self,
        k: usize,
    ) {
        for n in (0..B).step_by(NV * used_lanes::<A, HALF>()) {
            let mut tile = RegisterTile::<A, MR, NV, HALF>::zero();
            // SAFETY: the caller's.
            unsafe {
                let to = self.out.add(k * B + n);
                if self.add {
                    tile.add(to, B);
                }
                let strides = Strides { row: 1, step: B, right: B };
                tile.accumulate(strides, self.x.add(k), self.dy.add(n), self.depth);
                tile.store(to, B);
            }
        }
    }
}
