//! Products of bf16 in the tile unit of Intel's AMX (Linux on x86-64, Cargo feature `amx`).
//!
//! One instruction adds the product of a tile of 16 rows by 32 columns of the input and a tile of 32 rows by 16 columns
//! of the weight to 16 x 16 sums in f32. Four tiles of sums, 32 x 32, stay in registers over all blocks of a column;
//! input and blocks are regrouped into tiles first.
//!
//! The unit takes numbers below bf16's normal range for zero, in inputs and sums. Inputs in f32 are never rounded for
//! it: it serves products whose input and weight are both bf16.
//!
//! The arithmetic is that of Intel's Architecture Instruction Set Extensions reference, chapter 3. On machines without
//! the unit, the tests run the same machine code through an emulator of these instructions.

mod pack;
mod tiles;

use std::any::TypeId;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::slice::{from_raw_parts, from_raw_parts_mut};

use half::bf16;

use self::pack::{TILE, TILE_DEPTH, TILE_SIDE, pack_block, pack_rows};
use self::tiles::Tiles;
use super::factor::Factor;
use super::tasks::{SharedOut, each, ranges_for, threads_for};
use super::{Epilogue, Values, scratch};
use crate::pattern::equal_work;

pub use self::tiles::{assume_available, is_available};

/// Fewest rows for which blocks are regrouped for the unit: half a tile of sums, below which a product is bound by
/// reading the weight anyway.
const MIN_ROWS: usize = 16;

/// Rows that share one regrouping of the blocks. 512 rows of 2048 columns fill the 2 MB second-level cache of the
/// machines that have the unit. Guess.
const CHUNK_ROWS: usize = 512;

/// Multiply-adds of the unit in the time of one of the vector units: what counts as a small call. Guess, from peak rates.
const RATE: usize = 16;

/// Rows and columns of the sums that stay in registers.
const SUMS: usize = 2 * TILE_SIDE;

/// `epilogue(x · factor)` in `out`, if this machine has the unit and it takes such a product. Says whether it did.
pub(super) fn product<T: 'static>(
    x: &[T],
    factor: Factor<'_>,
    epilogue: Epilogue<'_, f32>,
    out: &mut [MaybeUninit<T>],
) -> bool {
    let m = out.len() / factor.outer();
    let Values::Bf16(values) = factor.values() else { return false };
    if TypeId::of::<T>() != TypeId::of::<bf16>()
        || m < MIN_ROWS
        || !factor.b().is_multiple_of(SUMS)
        || !is_available()
    {
        return false;
    }
    // SAFETY: `T` is bf16.
    let (x, out) = unsafe {
        let x = from_raw_parts(x.as_ptr().cast(), x.len());
        (x, from_raw_parts_mut(out.as_mut_ptr().cast(), out.len()))
    };
    let product = Product { x, values, factor, epilogue, out: SharedOut::new(out) };
    let chunk = m.div_ceil(m.div_ceil(CHUNK_ROWS)).next_multiple_of(SUMS);
    for start in (0..m).step_by(chunk) {
        product.chunk(start..m.min(start + chunk));
    }
    true
}

struct Product<'a> {
    x: &'a [bf16],
    values: &'a [bf16],
    factor: Factor<'a>,
    epilogue: Epilogue<'a, f32>,
    out: SharedOut<bf16>,
}

impl Product<'_> {
    /// Writes some rows of the output.
    fn chunk(&self, rows: Range<usize>) {
        let (b, inner) = (self.factor.b(), self.factor.inner());
        let threads = threads_for(rows.len() * self.factor.nnz() * b * b / RATE);
        let steps = inner.next_multiple_of(b) / TILE_DEPTH;
        let step_len = rows.len().div_ceil(TILE_SIDE) * TILE;
        scratch::with(steps * step_len / 2, |panels| {
            let panels = halves(panels);
            let tasks = panels.chunks_exact_mut(step_len).enumerate().collect();
            each(tasks, threads, |(step, panel)| {
                pack_rows(self.x, inner, rows.clone(), step, panel)
            });
            let panels = &*panels;
            each(equal_work(self.factor.ptr(), ranges_for(threads)), threads, |cols| {
                self.columns(panels, rows.clone(), cols);
            });
        });
    }

    /// Writes the block columns `cols` of these rows.
    fn columns(&self, panels: &[u16], rows: Range<usize>, cols: Range<usize>) {
        let area = self.factor.b() * self.factor.b();
        let longest = cols.clone().map(|col| self.factor.entries(col).len()).max().unwrap_or(0);
        scratch::with(SUMS * SUMS + longest * area / 2, |buffer| {
            let (sums, blocks) = buffer.split_at_mut(SUMS * SUMS);
            let blocks = halves(blocks);
            // SAFETY: `product` asked for the unit.
            let mut tiles = unsafe { Tiles::new() };
            for col in cols {
                for (entry, to) in self.factor.entries(col).zip(blocks.chunks_exact_mut(area)) {
                    let (_, slot) = self.factor.entry(entry);
                    let block = &self.values[slot * area..(slot + 1) * area];
                    pack_block(block, self.factor.b(), self.factor.is_turned(), to);
                }
                let column = Column { product: self, panels, rows: rows.clone(), col, blocks };
                column.write(&mut tiles, sums);
            }
        });
    }
}

/// One block column of some rows, both factors regrouped.
struct Column<'a> {
    product: &'a Product<'a>,
    panels: &'a [u16],
    rows: Range<usize>,
    col: usize,
    blocks: &'a [u16],
}

impl Column<'_> {
    fn write(&self, tiles: &mut Tiles, sums: &mut [f32]) {
        let b = self.product.factor.b();
        for part in (0..b).step_by(SUMS) {
            for row in (0..self.rows.len()).step_by(SUMS) {
                self.sum(tiles, row, part, sums);
                self.store(row, part, sums);
            }
        }
    }

    /// Sums of 32 rows and columns, or of the 16 rows that are left.
    fn sum(&self, tiles: &mut Tiles, row: usize, part: usize, sums: &mut [f32]) {
        let factor = &self.product.factor;
        let (b, row_tiles) = (factor.b(), self.rows.len().div_ceil(TILE_SIDE));
        let (steps, row_tile) = (b / TILE_DEPTH, row / TILE_SIDE);
        let two = row_tile + 1 < row_tiles;
        tiles.zero();
        for (at, entry) in factor.entries(self.col).enumerate() {
            let (block, _) = factor.entry(entry);
            for step in 0..steps {
                let left = &self.panels[((block * steps + step) * row_tiles + row_tile) * TILE..];
                let right =
                    &self.blocks[at * b * b + (step * (b / TILE_SIDE) + part / TILE_SIDE) * TILE..];
                if two {
                    tiles.multiply_two(left, right);
                } else {
                    tiles.multiply_one(left, right);
                }
            }
        }
        tiles.store(sums);
    }

    /// Bias, activation and rounding of those that are inside the output.
    fn store(&self, row: usize, part: usize, sums: &mut [f32]) {
        let Product { factor, epilogue, out, .. } = self.product;
        let (first, outer) = (self.col * factor.b() + part, factor.outer());
        let Some(width) = outer.checked_sub(first).map(|left| left.min(SUMS)) else { return };
        for (row, line) in (self.rows.start + row..self.rows.end).zip(sums.chunks_exact_mut(SUMS)) {
            let line = &mut line[..width];
            if let Some(bias) = epilogue.bias {
                line.iter_mut().zip(&bias[first..]).for_each(|(y, bias)| *y += bias);
            }
            if let Some(activation) = epilogue.activation {
                activation.apply(line);
            }
            // SAFETY: rows and columns of this task are written by no other.
            let to = unsafe { from_raw_parts_mut(out.at(row * outer + first), width) };
            to.iter_mut().zip(line).for_each(|(to, from)| *to = rounded(*from));
        }
    }
}

/// To nearest, ties to even; without a branch, so that loops over it become vectors.
fn rounded(x: f32) -> bf16 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    bf16::from_bits(if x.is_nan() { quiet } else { nearest } as u16)
}

/// The same memory as 16-bit elements.
fn halves(buffer: &mut [f32]) -> &mut [u16] {
    // SAFETY: twice as many elements of half the size, and of any bits.
    unsafe { from_raw_parts_mut(buffer.as_mut_ptr().cast(), 2 * buffer.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        for upper in 0..=u16::MAX {
            for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits(u32::from(upper) << 16 | lower);
                assert_eq!(rounded(x).to_bits(), bf16::from_f32(x).to_bits(), "{x:?}");
            }
        }
    }
}
