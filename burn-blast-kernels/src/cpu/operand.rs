//! The weight of a product, and its blocks in the words that tiles read.

use std::ops::Range;
use std::slice::from_raw_parts_mut;

use super::arithmetic::Words;
use super::dot::{write_pair_block, write_quad_block};
use super::scratch::CACHE_LINE_BYTES;
use super::transpose::transpose;
use super::values::Values;
use crate::BlockPattern;

/// Floats in a group of blocks. All rows pass over a group before the next one, so that its blocks and the panels they
/// multiply stay in a second-level cache of 1 MB. Measured on an AVX-512 Xeon.
const GROUP_FLOATS: usize = 64 << 10;

/// The block-sparse weight of a product `[m, inner] · [inner, outer]`, by block columns of the output.
///
/// Entries `starts[j]..starts[j + 1]` belong to output column `j`.
#[derive(Clone, Copy)]
pub(super) struct SparseOperand<'a> {
    pub(super) values: Values<'a>,
    /// First entry of each block column of the output, and the number of entries.
    pub(super) starts: &'a [u32],
    /// Inner block that each entry multiplies.
    pub(super) inner_blocks: &'a [u32],
    direction: Direction<'a>,
    /// Side of a block.
    pub(super) b: usize,
    pub(super) inner: usize,
    pub(super) outer: usize,
}

/// Whether a product is with the weight or with the transposed weight.
#[derive(Clone, Copy)]
enum Direction<'a> {
    /// An entry is a value block.
    Forward,
    /// An entry is the transpose of the value block in its slot.
    Transposed { slots: &'a [u32] },
}

impl<'a> SparseOperand<'a> {
    /// The weight.
    pub(super) fn forward(values: Values<'a>, pattern: &'a BlockPattern) -> Self {
        Self {
            values,
            starts: pattern.col_ptr(),
            inner_blocks: pattern.row_idx(),
            direction: Direction::Forward,
            b: pattern.block().get(),
            inner: pattern.shape().rows(),
            outer: pattern.shape().cols(),
        }
    }

    /// The transposed weight.
    pub(super) fn transposed(values: Values<'a>, pattern: &'a BlockPattern) -> Self {
        Self {
            values,
            starts: pattern.row_ptr(),
            inner_blocks: pattern.col_idx(),
            direction: Direction::Transposed { slots: pattern.slot() },
            b: pattern.block().get(),
            inner: pattern.shape().cols(),
            outer: pattern.shape().rows(),
        }
    }

    /// Values of the kept blocks.
    pub(super) fn value_count(&self) -> usize {
        self.inner_blocks.len() * self.b * self.b
    }

    /// Length of the buffer in which blocks are converted, transposed or aligned.
    pub(super) fn scratch_len(&self) -> usize {
        let longest = self.starts.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0);
        // Two more blocks, for what is converted before it is transposed.
        ((longest as usize).min(self.group_len()) + 2) * self.b * self.b
    }

    /// Blocks of a group.
    fn group_len(&self) -> usize {
        GROUP_FLOATS / (self.b * self.b)
    }

    /// Entries of group `group` of a column.
    pub(super) fn group(&self, col: usize, group: usize) -> Range<usize> {
        let end = self.starts[col + 1] as usize;
        let start = (self.starts[col] as usize + group * self.group_len()).min(end);
        start..end.min(start + self.group_len())
    }

    /// Groups of a column. An empty column has one too, because its output has to be written.
    pub(super) fn groups(&self, col: usize) -> usize {
        ((self.starts[col + 1] - self.starts[col]) as usize).div_ceil(self.group_len()).max(1)
    }

    /// Entries of output block column `col`.
    pub(super) fn entries(&self, col: usize) -> Range<usize> {
        self.starts[col] as usize..self.starts[col + 1] as usize
    }

    /// Inner block and value block of an entry.
    pub(super) fn entry(&self, entry: usize) -> (usize, usize) {
        let slot = match self.direction {
            Direction::Forward => entry,
            Direction::Transposed { slots } => slots[entry] as usize,
        };
        (self.inner_blocks[entry] as usize, slot)
    }

    /// Rows of the block of an entry that are inside the weight: the last inner block may be ragged.
    #[inline(always)]
    pub(super) fn depth(&self, entry: usize) -> usize {
        let (block, _) = self.entry(entry);
        self.b.min(self.inner - block * self.b)
    }

    /// Whether value blocks are used as they are, not transposed.
    pub(super) fn is_forward(&self) -> bool {
        matches!(self.direction, Direction::Forward)
    }

    /// What the integers of the block of an entry are multiplied by.
    #[inline(always)]
    pub(super) fn scale(&self, entry: usize) -> f32 {
        match self.values {
            Values::Int8 { scales, .. } => scales[self.entry(entry).1],
            _ => 1.0,
        }
    }

    /// Makes the blocks of `entries` available in `words`. `reused` says whether they are read more than once.
    ///
    /// # Safety
    /// `scratch` must have room for [`scratch_len`](Self::scratch_len) floats.
    #[inline(always)]
    pub(super) unsafe fn blocks(
        &self,
        entries: Range<usize>,
        words: Words,
        reused: bool,
        scratch: *mut f32,
    ) -> BlockSource {
        let area = self.b * self.b;
        let len = words.block_len(self.b);
        if let (Words::Single, Values::F32(values), Direction::Forward) =
            (words, self.values, self.direction)
        {
            let from = values[entries.start * area..].as_ptr();
            return if reused && !from.addr().is_multiple_of(CACHE_LINE_BYTES) {
                BlockSource::Unaligned { from, copy: scratch }
            } else {
                BlockSource::Ready(from)
            };
        }
        if !reused && self.is_forward() {
            return BlockSource::Convert(scratch);
        }
        // SAFETY: the caller's: no group is longer, and there is room for two blocks more.
        unsafe {
            let room = from_raw_parts_mut(scratch.add(entries.len() * area), 2 * area);
            for (at, entry) in entries.enumerate() {
                let to = from_raw_parts_mut(scratch.add(at * len), len);
                self.write(entry, words, to, room);
            }
        }
        BlockSource::Ready(scratch)
    }

    /// Writes the block of an entry in `words` to `to`. `room` has two blocks.
    #[inline(always)]
    pub(super) fn write(&self, entry: usize, words: Words, to: &mut [f32], room: &mut [f32]) {
        let (_, slot) = self.entry(entry);
        let (b, area) = (self.b, self.b * self.b);
        let transposed = !self.is_forward();
        let depth = self.depth(entry);
        match (words, self.values) {
            (Words::Quad, Values::Int8 { values, .. }) => {
                let values = &values[slot * area..(slot + 1) * area];
                // SAFETY: quads exist only where there are their dot products.
                unsafe { write_quad_block(values, b, depth, to) };
            }
            (Words::Quad, _) => unreachable!("quads are of integers"),
            (Words::Pair | Words::Tile, values) => {
                // SAFETY: pairs exist only where they can be written.
                unsafe { write_pair_block(values, slot, transposed, [b, depth], to, room) };
            }
            (Words::Single, Values::F32(values)) if transposed => {
                transpose(&values[slot * area..(slot + 1) * area], to, [b, b]);
            }
            (Words::Single, values) if transposed => {
                values.widen(slot, &mut room[..area]);
                transpose(&room[..area], to, [b, b]);
            }
            (Words::Single, values) => values.widen(slot, to),
        }
    }
}

/// Where a tile reads the blocks of a group.
#[derive(Clone, Copy)]
pub(super) enum BlockSource {
    /// Consecutive blocks.
    Ready(*const f32),
    /// Consecutive blocks of `f32` across cache lines, where a vector load costs two. The first tile copies them to
    /// aligned memory for the tiles that follow.
    Unaligned { from: *const f32, copy: *mut f32 },
    /// Each block is converted when it is read, into this buffer of three blocks.
    Convert(*mut f32),
}
