//! Products of bf16 with Intel's AMX tile registers (Linux on x86-64, Cargo feature `amx`).
//!
//! One instruction multiplies a tile of 16 rows by 32 columns of the input by a tile of 32 rows by 16 columns of the
//! weight, and adds the product to 16 x 16 sums in f32. Four tiles of sums, 32 x 32, stay in registers over all blocks of
//! a column. Input and blocks are brought into the layout of tiles first.
//!
//! AMX treats subnormal numbers as zero, in inputs and sums. Inputs in f32 are never rounded to bf16 here: both input and
//! weight must be bf16.
//!
//! The instructions are described in chapter 3 of Intel's Architecture Instruction Set Extensions reference. On machines
//! without AMX, the tests run the same machine code in an emulator of these instructions.

mod tiles;

use std::any::TypeId;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::slice::{from_raw_parts, from_raw_parts_mut};

use half::bf16;

use self::tiles::{TILE, TILE_DEPTH, TILE_SIDE, Tiles, write_block_tiles, write_row_tiles};
use super::operand::SparseOperand;
use super::scratch;
use super::tasks::{SharedOut, run_tasks, task_count, threads_for};
use super::values::{Values, rounded};
use crate::pattern::equal_work;

#[cfg(feature = "testing")]
pub use self::tiles::assume_amx;
pub(crate) use self::tiles::is_available;

/// Fewest rows for which AMX is used: half a tile of sums. With fewer, a product is bound by reading the weight anyway.
const MIN_ROWS: usize = 16;

/// Rows for which blocks are brought into the layout of tiles once. 512 rows of 2048 columns fill the 2 MB second-level
/// cache of the machines with AMX. Guess.
const CHUNK_ROWS: usize = 512;

/// Multiply-adds of AMX in the time of one multiply-add of the vector units, to decide on the number of threads. Guess,
/// from peak rates.
const RATE: usize = 16;

/// Side of the square of sums that stays in registers.
const SUMS: usize = 2 * TILE_SIDE;

/// Writes `x · weight + bias` to `out` and returns true, or returns false if this machine has no AMX or the product does
/// not fit it.
pub(super) fn product<T: 'static>(
    x: &[T],
    weight: SparseOperand<'_>,
    bias: Option<&[f32]>,
    out: &mut [MaybeUninit<T>],
) -> bool {
    let m = out.len() / weight.outer;
    let Values::Bf16(values) = weight.values else { return false };
    if TypeId::of::<T>() != TypeId::of::<bf16>()
        || m < MIN_ROWS
        || !weight.b.is_multiple_of(SUMS)
        || !is_available()
    {
        return false;
    }
    // SAFETY: `T` is bf16.
    let (x, out) = unsafe {
        let x = from_raw_parts(x.as_ptr().cast(), x.len());
        (x, from_raw_parts_mut(out.as_mut_ptr().cast(), out.len()))
    };
    let product = AmxProduct { x, values, weight, bias, out: SharedOut::new(out) };
    let chunk = m.div_ceil(m.div_ceil(CHUNK_ROWS)).next_multiple_of(SUMS);
    for start in (0..m).step_by(chunk) {
        product.chunk(start..m.min(start + chunk));
    }
    true
}

struct AmxProduct<'a> {
    x: &'a [bf16],
    values: &'a [bf16],
    weight: SparseOperand<'a>,
    bias: Option<&'a [f32]>,
    out: SharedOut<bf16>,
}

impl AmxProduct<'_> {
    /// Writes some rows of the output.
    fn chunk(&self, rows: Range<usize>) {
        let (b, inner) = (self.weight.b, self.weight.inner);
        let threads = threads_for(rows.len() * self.weight.value_count() / RATE);
        let steps = inner.next_multiple_of(b) / TILE_DEPTH;
        let step_len = rows.len().div_ceil(TILE_SIDE) * TILE;
        scratch::with(steps * step_len / 2, |panels| {
            let panels = halves(panels);
            let tasks = panels.chunks_exact_mut(step_len).enumerate().collect();
            run_tasks(tasks, threads, |(step, panel)| {
                write_row_tiles(self.x, inner, rows.clone(), step, panel)
            });
            let panels = &*panels;
            run_tasks(equal_work(self.weight.starts, task_count(threads)), threads, |cols| {
                self.columns(panels, rows.clone(), cols);
            });
        });
    }

    /// Writes the block columns `cols` of these rows.
    fn columns(&self, panels: &[u16], rows: Range<usize>, cols: Range<usize>) {
        let area = self.weight.b * self.weight.b;
        let longest = cols.clone().map(|col| self.weight.entries(col).len()).max().unwrap_or(0);
        scratch::with(SUMS * SUMS + longest * area / 2, |buffer| {
            let (sums, blocks) = buffer.split_at_mut(SUMS * SUMS);
            let blocks = halves(blocks);
            // SAFETY: `product` checked that AMX is available.
            let mut tiles = unsafe { Tiles::new() };
            for col in cols {
                for (entry, to) in self.weight.entries(col).zip(blocks.chunks_exact_mut(area)) {
                    let (_, slot) = self.weight.entry(entry);
                    let block = &self.values[slot * area..(slot + 1) * area];
                    write_block_tiles(block, self.weight.b, !self.weight.is_forward(), to);
                }
                let column = AmxColumn { product: self, panels, rows: rows.clone(), col, blocks };
                column.write(&mut tiles, sums);
            }
        });
    }
}

/// One block column of some rows, with both operands in tiles.
struct AmxColumn<'a> {
    product: &'a AmxProduct<'a>,
    panels: &'a [u16],
    rows: Range<usize>,
    col: usize,
    blocks: &'a [u16],
}

impl AmxColumn<'_> {
    fn write(&self, tiles: &mut Tiles, sums: &mut [f32]) {
        let b = self.product.weight.b;
        for first_col in (0..b).step_by(SUMS) {
            for row in (0..self.rows.len()).step_by(SUMS) {
                self.sum(tiles, row, first_col, sums);
                self.store(row, first_col, sums);
            }
        }
    }

    /// Computes the sums of 32 rows by 32 columns, or of the 16 rows that are left.
    fn sum(&self, tiles: &mut Tiles, row: usize, first_col: usize, sums: &mut [f32]) {
        let weight = &self.product.weight;
        let (b, row_tiles) = (weight.b, self.rows.len().div_ceil(TILE_SIDE));
        let (steps, row_tile) = (b / TILE_DEPTH, row / TILE_SIDE);
        let two = row_tile + 1 < row_tiles;
        tiles.zero();
        for (at, entry) in weight.entries(self.col).enumerate() {
            let (block, _) = weight.entry(entry);
            for step in 0..steps {
                let left = &self.panels[((block * steps + step) * row_tiles + row_tile) * TILE..];
                let right = &self.blocks
                    [at * b * b + (step * (b / TILE_SIDE) + first_col / TILE_SIDE) * TILE..];
                if two {
                    tiles.multiply_two(left, right);
                } else {
                    tiles.multiply_one(left, right);
                }
            }
        }
        tiles.store(sums);
    }

    /// Adds the bias, rounds, and writes the sums that are inside the output.
    fn store(&self, row: usize, first_col: usize, sums: &mut [f32]) {
        let AmxProduct { weight, bias, out, .. } = self.product;
        let (first, outer) = (self.col * weight.b + first_col, weight.outer);
        let Some(width) = outer.checked_sub(first).map(|left| left.min(SUMS)) else { return };
        for (row, sums) in (self.rows.start + row..self.rows.end).zip(sums.chunks_exact_mut(SUMS)) {
            let sums = &mut sums[..width];
            if let Some(bias) = bias {
                sums.iter_mut().zip(&bias[first..]).for_each(|(y, bias)| *y += bias);
            }
            // SAFETY: rows and columns of this task are written by no other.
            let to = unsafe { from_raw_parts_mut(out.at(row * outer + first), width) };
            to.iter_mut().zip(sums).for_each(|(to, from)| *to = rounded(*from));
        }
    }
}

/// The same memory, as 16-bit elements.
fn halves(buffer: &mut [f32]) -> &mut [u16] {
    // SAFETY: twice the number of elements at half the size, and all bits are valid.
    unsafe { from_raw_parts_mut(buffer.as_mut_ptr().cast(), 2 * buffer.len()) }
}
