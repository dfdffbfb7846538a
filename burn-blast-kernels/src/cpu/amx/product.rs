//! One block column of a product, as a sum over the blocks of its column.

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch, _mm512_load_ps, _mm512_stream_ps};
use std::mem::MaybeUninit;
use std::ops::Range;

use super::registers::{Rows, Tiles};
use super::{SIDE, SQUARE};
use crate::cpu::arithmetic::Words;
use crate::cpu::int4::int4_block_len;
use crate::cpu::macro_kernel::{Target, Term};
use crate::cpu::operand::SparseOperand;
use crate::cpu::scratch::CACHE_LINE_BYTES;
use crate::cpu::values::Values;

/// Inner dimension of a group of blocks. All rows pass over 32 columns of a group before the next ones: 32 KB, which stay in the
/// first-level cache in blocks of 32, and in the second-level one in larger blocks, whose rows meet in the same sets.
const GROUP_DEPTH: usize = 512;

/// Writes block column `col` of the sum of `terms`, for all rows of their panels.
///
/// # Safety
/// - this machine has the unit, and blocks are multiples of [`SQUARE`]
/// - all else as in [`macro_kernel`](crate::cpu::macro_kernel::macro_kernel)
pub(in crate::cpu) unsafe fn macro_kernel(
    terms: &[Term<'_>],
    col: usize,
    to: Target<'_>,
    scratch: &mut [f32],
) {
    let mut add = false;
    for (at, term) in terms.iter().enumerate() {
        let entries = term.weight.entries(col);
        let mut start = entries.start;
        // A column without blocks is a group too, because its output has to be written.
        loop {
            let end = entries.end.min(start + GROUP_DEPTH / term.weight.b);
            let last = at + 1 == terms.len() && end == entries.end;
            let blocks = write_blocks(term, start..end, scratch);
            let next = match terms.get(at + 1) {
                _ if end < entries.end => Ahead::new(&term.weight, end..entries.end),
                Some(next) => Ahead::new(&next.weight, next.weight.entries(col)),
                None => Ahead::of_column(&terms[0].weight, col + 1),
            };
            // SAFETY: the caller's.
            unsafe { Group { term, entries: start..end, blocks, add, last, to }.write(next) };
            add = true;
            start = end;
            if start == entries.end {
                break;
            }
        }
    }
}

/// The blocks of the next group, which are brought into the caches while this one is multiplied. Otherwise the unit waits for
/// memory when they are converted.
struct Ahead<'a> {
    weight: &'a SparseOperand<'a>,
    entries: Range<usize>,
    /// Byte inside the first block.
    at: usize,
    /// Start of the values as they are stored.
    values: *const u8,
    /// Bytes of a block.
    bytes: usize,
}

impl<'a> Ahead<'a> {
    fn new(weight: &'a SparseOperand<'a>, entries: Range<usize>) -> Self {
        let end = entries.end.min(entries.start + GROUP_DEPTH / weight.b);
        let area = weight.b * weight.b;
        let (values, bytes): (*const u8, _) = match weight.values {
            Values::F32(values) => (values.as_ptr().cast(), 4 * area),
            Values::F16(values) => (values.as_ptr().cast(), 2 * area),
            Values::Bf16(values) => (values.as_ptr().cast(), 2 * area),
            Values::Int8 { values, .. } => (values.as_ptr().cast(), area),
            Values::Int4 { bytes, block } => (bytes.as_ptr().cast(), int4_block_len(block)),
        };
        Self { weight, entries: entries.start..end, at: 0, values, bytes }
    }

    /// The first group of a column, or nothing behind the last one.
    fn of_column(weight: &'a SparseOperand<'a>, col: usize) -> Self {
        let inside = col + 1 < weight.starts.len();
        Self::new(weight, if inside { weight.entries(col) } else { 0..0 })
    }

    /// Cache lines of all blocks.
    fn lines(&self) -> usize {
        self.entries.len() * self.bytes / CACHE_LINE_BYTES
    }

    /// Brings the next `lines` cache lines.
    #[inline(always)]
    fn bring(&mut self, lines: usize) {
        for _ in 0..lines {
            if self.entries.is_empty() {
                return;
            }
            let (_, slot) = self.weight.entry(self.entries.start);
            let ptr = self.values.wrapping_add(slot * self.bytes + self.at);
            // SAFETY: the processor ignores what is not memory.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(ptr.cast()) };
            self.at += CACHE_LINE_BYTES;
            if self.at >= self.bytes {
                (self.entries.start, self.at) = (self.entries.start + 1, 0);
            }
        }
    }
}

/// Writes the blocks of `entries` as pairs.
fn write_blocks<'a>(term: &Term<'_>, entries: Range<usize>, scratch: &'a mut [f32]) -> &'a [f32] {
    let weight = &term.weight;
    let (b, len) = (weight.b, Words::Tile.block_len(weight.b));
    let (blocks, room) = scratch.split_at_mut(entries.len() * len);
    let room = &mut room[..2 * b * b];
    for (entry, to) in entries.zip(blocks.chunks_exact_mut(len)) {
        weight.write(entry, Words::Tile, to, room);
        // A tile reads beyond a ragged block.
        let depth = weight.depth(entry);
        to[Words::Tile.of(depth) * b..].fill(0.0);
    }
    blocks
}

/// A group of blocks of one output block column.
struct Group<'a> {
    term: &'a Term<'a>,
    entries: Range<usize>,
    /// `[entries, b / 2, b]` words.
    blocks: &'a [f32],
    /// Add to the target instead of overwriting it.
    add: bool,
    /// Whether the sums are complete after this group.
    last: bool,
    to: Target<'a>,
}

impl Group<'_> {
    /// All rows of the panels, whole squares first. Meanwhile, `ahead` is brought.
    ///
    /// # Safety
    /// As [`macro_kernel`].
    unsafe fn write(&self, mut ahead: Ahead<'_>) {
        let (b, rows) = (self.term.weight.b, self.term.input.rows());
        let pieces = rows.div_ceil(SQUARE) * (b / SQUARE) * self.entries.len();
        let lines = ahead.lines().div_ceil(pieces.max(1));
        let mut ahead = || ahead.bring(lines);
        let whole = rows / SQUARE * SQUARE;
        // SAFETY: the caller's; rows and columns stay inside.
        unsafe {
            if whole > 0 {
                let mut tiles = Tiles::new(SQUARE);
                for first_col in (0..b).step_by(SQUARE) {
                    for row in (0..whole).step_by(SQUARE) {
                        self.square(&mut tiles, row, SQUARE, first_col, &mut ahead);
                    }
                }
            }
            if rows > whole {
                let mut tiles = Tiles::new(rows - whole);
                for first_col in (0..b).step_by(SQUARE) {
                    self.square(&mut tiles, whole, rows - whole, first_col, &mut ahead);
                }
            }
        }
    }

    /// Computes `rows` rows by 32 columns, and calls `between` for each block.
    ///
    /// # Safety
    /// As [`macro_kernel`].
    #[inline(always)]
    unsafe fn square(
        &self,
        tiles: &mut Tiles,
        row: usize,
        rows: usize,
        first_col: usize,
        between: &mut impl FnMut(),
    ) {
        let weight = &self.term.weight;
        let (b, words) = (weight.b, Words::Tile.row_len(weight.b));
        // SAFETY: the caller's; indices come from a checked pattern, and a column's bias has `b` elements.
        unsafe {
            let ptr = self.to.ptr.add(row * self.to.stride + first_col);
            let to = Rows { ptr, stride: self.to.stride };
            match self.to.bias {
                _ if self.add => tiles.load(Rows { ptr: ptr.cast_const(), stride: to.stride }),
                Some(bias) => tiles.load(Rows { ptr: bias.as_ptr().add(first_col), stride: 0 }),
                None => tiles.zero(),
            }
            let mut right = self.blocks.as_ptr().add(first_col);
            for entry in self.entries.clone() {
                let block = *weight.inner_blocks.get_unchecked(entry) as usize;
                let left = self.term.input.at(block, row, words);
                between();
                for step in 0..words / SIDE {
                    let left = Rows { ptr: left.add(step * SIDE), stride: words };
                    tiles.multiply(left, Rows { ptr: right, stride: b });
                    right = right.add(SIDE * b);
                }
            }
            if self.last && self.to.stream {
                stream(tiles, rows, to);
            } else {
                tiles.store(to);
            }
        }
    }
}

/// Writes sums past the caches.
///
/// # Safety
/// This machine has the unit, and the rows must be writable and start at cache lines.
#[target_feature(enable = "avx512f")]
unsafe fn stream(tiles: &Tiles, rows: usize, to: Rows<*mut f32>) {
    #[repr(align(64))]
    struct Square(MaybeUninit<[f32; SQUARE * SQUARE]>);
    let mut square = Square(MaybeUninit::uninit());
    let sums: *mut f32 = square.0.as_mut_ptr().cast();
    // SAFETY: the caller's; there is room for a square, of which `rows` rows are written and read.
    unsafe {
        tiles.store(Rows { ptr: sums, stride: SQUARE });
        for row in 0..rows {
            for at in [0, SIDE] {
                let vector = _mm512_load_ps(sums.add(row * SQUARE + at));
                _mm512_stream_ps(to.ptr.add(row * to.stride + at), vector);
            }
        }
    }
}
