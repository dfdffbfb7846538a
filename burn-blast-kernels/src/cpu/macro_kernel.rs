//! The macro-kernel of all host products: one block column of the output, as a sum over the blocks of its column.

use std::ops::Range;
use std::slice::from_raw_parts_mut;

use super::amx;
use super::arithmetic::{Arithmetic, TileLoop, Words, run};
use super::microkernel::{RegisterTile, Strides, used_lanes, with_tile_shape};
use super::operand::{BlockSource, SparseOperand};
use super::panels::Panels;
use derive_new::new;

/// One product in a sum of products that are written to the same output.
#[derive(Clone, Copy, new)]
pub(super) struct Term<'a> {
    pub(super) input: Panels,
    pub(super) weight: SparseOperand<'a>,
}

/// Destination of a block column: rows of `b` elements, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) ptr: *mut f32,
    pub(super) stride: usize,
    /// Added to every row, `b` elements.
    pub(super) bias: Option<&'a [f32]>,
    /// Use non-temporal stores; `ptr` and `stride` must be multiples of a cache line.
    pub(super) stream: bool,
}

impl Target<'_> {
    /// A single panel.
    #[inline(always)]
    pub(super) fn panel(panel: &mut [f32], b: usize) -> Self {
        Self { ptr: panel.as_mut_ptr(), stride: b, bias: None, stream: false }
    }
}

/// Writes block column `col` of the sum of `terms`, for all rows of their panels.
///
/// All products call it. Except for the matrix unit, what it calls is the only code that is compiled for every instruction
/// set and block size.
///
/// # Safety
/// - `to` has room for whole blocks in every row of the panels
/// - all panels have the same number of rows and the same words, and belong to their operand
/// - all operands have the same block size, and `scratch` the [`scratch_len`](SparseOperand::scratch_len) of each
pub(super) unsafe fn macro_kernel(
    terms: &[Term<'_>],
    col: usize,
    to: Target<'_>,
    scratch: &mut [f32],
) {
    let words = terms[0].input.words();
    // SAFETY: the caller's.
    unsafe {
        if words == Words::Tile {
            return amx::macro_kernel(terms, col, to, scratch);
        }
        run(words, MacroKernel { terms, col, to, scratch: scratch.as_mut_ptr() });
    }
}

struct MacroKernel<'a> {
    terms: &'a [Term<'a>],
    col: usize,
    to: Target<'a>,
    scratch: *mut f32,
}

impl TileLoop for MacroKernel<'_> {
    #[inline(always)]
    unsafe fn run<A: Arithmetic>(self) {
        let b = self.terms[0].weight.b;
        // SAFETY: the caller's of `macro_kernel`.
        unsafe { with_tile_shape!(A, b, all_groups(&self)) }
    }
}

/// # Safety
/// As [`macro_kernel`]; `B` is the block size of every operand, and the width of a tile divides it.
#[inline(always)]
unsafe fn all_groups<
    A: Arithmetic,
    const B: usize,
    const MR: usize,
    const NV: usize,
    const HALF: bool,
>(
    kernel: &MacroKernel<'_>,
) {
    let &MacroKernel { terms, col, to, scratch } = kernel;
    let rows = terms[0].input.rows();
    let width = NV * used_lanes::<A, HALF>();
    for (at, term) in terms.iter().enumerate() {
        let one_tile = rows == MR || rows < MR && rows <= 8 && rows.is_power_of_two();
        let reused = !one_tile || B > width;
        for group in 0..term.weight.groups(col) {
            let entries = term.weight.group(col, group);
            let last = at + 1 == terms.len() && group + 1 == term.weight.groups(col);
            let add = at > 0 || group > 0;
            // SAFETY: the caller's.
            let blocks = unsafe { term.weight.blocks(entries.clone(), A::WORDS, reused, scratch) };
            let group = Group { term, entries, add, to, last, blocks, first_col: 0 };
            // SAFETY: the caller's.
            unsafe { group.all_rows::<A, B, MR, NV, HALF>(rows) };
        }
    }
}

/// A group of blocks of one output block column.
#[derive(Clone)]
struct Group<'a> {
    term: &'a Term<'a>,
    entries: Range<usize>,
    /// First column of the tiles inside the block.
    first_col: usize,
    /// Add to the target instead of overwriting it.
    add: bool,
    to: Target<'a>,
    /// Whether the sums are complete after this group.
    last: bool,
    blocks: BlockSource,
}

impl Group<'_> {
    /// All rows of the panels, whole tiles first.
    ///
    /// # Safety
    /// As [`macro_kernel`].
    #[inline(always)]
    unsafe fn all_rows<
        A: Arithmetic,
        const B: usize,
        const MR: usize,
        const NV: usize,
        const HALF: bool,
    >(
        &self,
        rows: usize,
    ) {
        for first_col in (0..B).step_by(NV * used_lanes::<A, HALF>()) {
            let mut group = Self { first_col, ..self.clone() };
            let mut row = 0;
            // SAFETY: the caller's; rows stay below `rows`.
            unsafe {
                if rows >= MR {
                    group.tile::<A, B, MR, NV, HALF, true>(0);
                    // From now on the aligned copy made by the first tile is read.
                    if let BlockSource::Unaligned { copy, .. } = group.blocks {
                        group.blocks = BlockSource::Ready(copy);
                    }
                    row = MR;
                }
                while row + MR <= rows {
                    group.tile::<A, B, MR, NV, HALF, false>(row);
                    row += MR;
                }
                while MR > 8 && row + 8 <= rows {
                    group.tile::<A, B, 8, NV, HALF, false>(row);
                    row += 8;
                }
                while MR > 4 && row + 4 <= rows {
                    group.tile::<A, B, 4, NV, HALF, false>(row);
                    row += 4;
                }
                while MR > 2 && row + 2 <= rows {
                    group.tile::<A, B, 2, NV, HALF, false>(row);
                    row += 2;
                }
                while row < rows {
                    group.tile::<A, B, 1, NV, HALF, false>(row);
                    row += 1;
                }
            }
        }
    }

    /// One tile of `MR` rows over the blocks of the group. `FIRST` marks the first of several whole tiles.
    ///
    /// # Safety
    /// As [`macro_kernel`], with `row + MR` at most the number of rows of the panels.
    #[inline(always)]
    unsafe fn tile<
        A: Arithmetic,
        const B: usize,
        const MR: usize,
        const NV: usize,
        const HALF: bool,
        const FIRST: bool,
    >(
        &self,
        row: usize,
    ) {
        let SparseOperand { inner_blocks, inner, .. } = self.term.weight;
        let strides = Strides { row: A::WORDS.row_len(B), step: 1, right: B };
        let mut tile = RegisterTile::<A, MR, NV, HALF>::zero();
        // SAFETY: the indices come from a checked pattern, and the caller guarantees the target.
        unsafe {
            let to = self.to.ptr.add(row * self.to.stride + self.first_col);
            if self.add {
                tile.add(to, self.to.stride);
            }
            for (at, entry) in self.entries.clone().enumerate() {
                let block = *inner_blocks.get_unchecked(entry) as usize;
                // The last inner block may be ragged; nothing beyond it is read.
                let depth = A::WORDS.of(B.min(inner - block * B));
                let left = self.term.input.at(block, row, strides.row);
                let offset = at * A::WORDS.block_len(B) + self.first_col;
                let right = match self.blocks {
                    BlockSource::Unaligned { from, copy } if FIRST => {
                        let (from, copy) = (from.add(offset), copy.add(offset));
                        tile.accumulate_copying(strides, left, from, copy, depth);
                        continue;
                    }
                    BlockSource::Ready(from) | BlockSource::Unaligned { from, .. } => {
                        from.add(offset)
                    }
                    BlockSource::Convert(room) => {
                        let to = from_raw_parts_mut(room, A::WORDS.block_len(B));
                        let more = from_raw_parts_mut(room.add(B * B), 2 * B * B);
                        self.term.weight.write(entry, A::WORDS, to, more);
                        room.cast_const().add(self.first_col)
                    }
                };
                if A::WORDS == Words::Quad {
                    // Integers become f32 by block, since each block and row has a scale.
                    let mut sums = RegisterTile::<A, MR, NV, HALF>::rows(right.add(B * B / 4));
                    sums.accumulate(strides, left, right, depth);
                    let (scale, rows) = (self.term.weight.scale(entry), left.add(B / 4));
                    tile.add_scaled(&sums, scale, rows, strides.row);
                    continue;
                }
                tile.accumulate(strides, left, right, depth);
            }
            if let (true, Some(bias)) = (self.last, self.to.bias) {
                tile.add_bias(bias.as_ptr().add(self.first_col));
            }
            if self.last && self.to.stream {
                tile.stream(to, self.to.stride);
            } else {
                tile.store(to, self.to.stride);
            }
        }
    }
}
