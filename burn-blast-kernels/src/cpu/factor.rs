//! The block-sparse factor of a product, as the loop over its output block columns reads it.

use std::ops::Range;
use std::slice::from_raw_parts_mut;

use macerator::{AutoArch, Simd, WithSimd};

use super::panel::Panels;
use super::shape::by_block;
use super::tile::{Strides, Tile, used_lanes};
use super::transpose::turn;
use super::values::Values;
use crate::BlockPattern;

/// Bytes of a cache line.
pub(super) const LINE_BYTES: usize = 64;

/// Floats of the blocks of a column that all rows pass over before the next ones: they and what the rows read beside
/// them stay in a second-level cache of 1 MB. Measured on an AVX-512 Xeon.
const GROUP_FLOATS: usize = 64 << 10;

/// Blocks in the order of the output block columns: entries `ptr[j]..ptr[j + 1]` of column `j` multiply inner
/// block `idx[e]` by value block `e`, or, of a transposed weight, by the turned value block `slot[e]`.
#[derive(Clone, Copy)]
pub(super) struct Factor<'a> {
    values: Values<'a>,
    ptr: &'a [u32],
    idx: &'a [u32],
    slot: Option<&'a [u32]>,
    b: usize,
    inner: usize,
    outer: usize,
}

impl<'a> Factor<'a> {
    /// The weight itself.
    pub(super) fn forward(values: Values<'a>, pattern: &'a BlockPattern) -> Self {
        Self {
            values,
            ptr: pattern.col_ptr(),
            idx: pattern.row_idx(),
            slot: None,
            b: pattern.block().get(),
            inner: pattern.shape().rows(),
            outer: pattern.shape().cols(),
        }
    }

    /// The transposed weight.
    pub(super) fn transposed(values: Values<'a>, pattern: &'a BlockPattern) -> Self {
        Self {
            values,
            ptr: pattern.row_ptr(),
            idx: pattern.col_idx(),
            slot: Some(pattern.slot()),
            b: pattern.block().get(),
            inner: pattern.shape().cols(),
            outer: pattern.shape().rows(),
        }
    }

    pub(super) fn ptr(&self) -> &'a [u32] {
        self.ptr
    }

    /// Block columns of the output.
    pub(super) fn columns(&self) -> usize {
        self.ptr.len() - 1
    }

    pub(super) fn b(&self) -> usize {
        self.b
    }

    pub(super) fn inner(&self) -> usize {
        self.inner
    }

    pub(super) fn outer(&self) -> usize {
        self.outer
    }

    /// Kept blocks.
    pub(super) fn nnz(&self) -> usize {
        self.idx.len()
    }

    /// Floats that [`column`] may need to convert values.
    pub(super) fn scratch_len(&self) -> usize {
        let longest = self.ptr.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0);
        // One more to convert a block before it is turned.
        ((longest as usize).min(self.group_len()) + 1) * self.b * self.b
    }

    /// Blocks of a group.
    fn group_len(&self) -> usize {
        GROUP_FLOATS / (self.b * self.b)
    }

    /// Entries of group `group` of a column.
    fn group(&self, col: usize, group: usize) -> Range<usize> {
        let end = self.ptr[col + 1] as usize;
        let start = (self.ptr[col] as usize + group * self.group_len()).min(end);
        start..end.min(start + self.group_len())
    }

    /// Groups of a column; one for an empty column, whose output is written too.
    fn groups(&self, col: usize) -> usize {
        ((self.ptr[col + 1] - self.ptr[col]) as usize).div_ceil(self.group_len()).max(1)
    }

    /// Where the blocks of some entries are as `f32`, from the first entry on. `reused` says whether they are read
    /// more than once.
    ///
    /// # Safety
    /// `scratch` must have room for [`scratch_len`](Self::scratch_len) floats.
    #[inline(always)]
    unsafe fn blocks(&self, entries: Range<usize>, reused: bool, scratch: *mut f32) -> Blocks {
        let area = self.b * self.b;
        // SAFETY: the caller's: no group is longer, and there is room for one block more.
        let room = |at: usize| unsafe { from_raw_parts_mut(scratch.add(at * area), area) };
        if let Some(slot) = self.slot {
            for (at, entry) in entries.clone().enumerate() {
                let slot = slot[entry] as usize;
                if let Values::F32(values) = self.values {
                    turn(&values[slot * area..(slot + 1) * area], room(at), self.b);
                } else {
                    let wide = room(entries.len());
                    self.values.widen(slot, wide);
                    turn(wide, room(at), self.b);
                }
            }
            return Blocks::Ready(scratch);
        }
        match self.values {
            Values::F32(values) => {
                let from = values[entries.start * area..].as_ptr();
                let aligned = from.addr().is_multiple_of(LINE_BYTES);
                if aligned || !reused { Blocks::Ready(from) } else { Blocks::Copied(from, scratch) }
            }
            _ if reused => {
                for (at, entry) in entries.enumerate() {
                    self.values.widen(entry, room(at));
                }
                Blocks::Ready(scratch)
            }
            _ => Blocks::Each(scratch),
        }
    }
}

/// For the tile unit, which regroups blocks before it multiplies.
#[cfg(all(feature = "amx", target_arch = "x86_64", target_os = "linux"))]
impl<'a> Factor<'a> {
    pub(super) fn values(&self) -> Values<'a> {
        self.values
    }

    /// Entries of output block column `col`.
    pub(super) fn entries(&self, col: usize) -> Range<usize> {
        self.ptr[col] as usize..self.ptr[col + 1] as usize
    }

    /// Inner block and value block of an entry.
    pub(super) fn entry(&self, entry: usize) -> (usize, usize) {
        (self.idx[entry] as usize, self.slot.map_or(entry, |slot| slot[entry] as usize))
    }

    /// Whether value blocks are used transposed.
    pub(super) fn is_turned(&self) -> bool {
        self.slot.is_some()
    }
}

/// How a tile reads the blocks of its column.
#[derive(Clone, Copy)]
enum Blocks {
    /// In place.
    Ready(*const f32),
    /// In place, by the first tile, which leaves a copy that is aligned for those that follow: a vector that
    /// crosses cache lines costs two loads.
    Copied(*const f32, *mut f32),
    /// Converted when it is read, to this room for one block.
    Each(*mut f32),
}

/// One product of a sum of products that share their output.
#[derive(Clone, Copy)]
pub(super) struct Term<'a> {
    pub(super) left: Panels,
    pub(super) right: Factor<'a>,
}

/// Where a block column of the output goes: `rows` rows of `b` elements, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) ptr: *mut f32,
    pub(super) stride: usize,
    /// Added to every row, `b` elements.
    pub(super) bias: Option<&'a [f32]>,
    /// Write past the caches; needs whole lines.
    pub(super) stream: bool,
}

impl Target<'_> {
    /// A panel of its own.
    #[inline(always)]
    pub(super) fn panel(panel: &mut [f32], b: usize) -> Self {
        Self { ptr: panel.as_mut_ptr(), stride: b, bias: None, stream: false }
    }
}

/// Writes block column `col` of the sum of `terms` for all rows of their panels.
///
/// The only place that is compiled for every instruction set and block: everything that multiplies calls it.
///
/// # Safety
/// `to` has room for whole blocks, all panels have the same rows, fit their factor, and `scratch` has the
/// [`scratch_len`](Factor::scratch_len) of every factor. All factors have one block.
pub(super) unsafe fn column(terms: &[Term<'_>], col: usize, to: Target<'_>, scratch: &mut [f32]) {
    AutoArch::new().dispatch(Column { terms, col, to, scratch: scratch.as_mut_ptr() });
}

struct Column<'a> {
    terms: &'a [Term<'a>],
    col: usize,
    to: Target<'a>,
    scratch: *mut f32,
}

impl WithSimd for Column<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let b = self.terms[0].right.b;
        // SAFETY: the caller's of `column`.
        unsafe { by_block!(S, b, tiles(&self)) }
    }
}

/// # Safety
/// As [`column`]; `B` is the block of every factor, and the width of a tile divides it.
#[inline(always)]
unsafe fn tiles<S: Simd, const B: usize, const MR: usize, const NV: usize, const HALF: bool>(
    column: &Column<'_>,
) {
    let &Column { terms, col, to, scratch } = column;
    let rows = terms[0].left.rows();
    let width = NV * used_lanes::<S, HALF>();
    for (at, term) in terms.iter().enumerate() {
        let reused = rows > MR || B > width;
        for group in 0..term.right.groups(col) {
            let entries = term.right.group(col, group);
            let last = at + 1 == terms.len() && group + 1 == term.right.groups(col);
            let add = at > 0 || group > 0;
            // SAFETY: the caller's.
            let blocks = unsafe { term.right.blocks(entries.clone(), reused, scratch) };
            let run = Run { term, entries, add, to, last, blocks, part: 0 };
            // SAFETY: the caller's.
            unsafe { run.all_rows::<S, B, MR, NV, HALF>(rows) };
        }
    }
}

/// Some blocks of one output block column.
#[derive(Clone)]
struct Run<'a> {
    term: &'a Term<'a>,
    entries: Range<usize>,
    /// First column of the part that is computed.
    part: usize,
    add: bool,
    to: Target<'a>,
    last: bool,
    blocks: Blocks,
}

impl Run<'_> {
    /// All rows of the panels, in whole tiles first.
    ///
    /// # Safety
    /// As [`column`].
    #[inline(always)]
    unsafe fn all_rows<
        S: Simd,
        const B: usize,
        const MR: usize,
        const NV: usize,
        const HALF: bool,
    >(
        &self,
        rows: usize,
    ) {
        for part in (0..B).step_by(NV * used_lanes::<S, HALF>()) {
            let mut run = Self { part, ..self.clone() };
            let mut row = 0;
            // SAFETY: the caller's; rows stay below `rows`.
            unsafe {
                if rows >= MR {
                    run.tile::<S, B, MR, NV, HALF, true>(0);
                    run.after_first();
                    row = MR;
                }
                while row + MR <= rows {
                    run.tile::<S, B, MR, NV, HALF, false>(row);
                    row += MR;
                }
                while MR > 8 && row + 8 <= rows {
                    run.tile::<S, B, 8, NV, HALF, false>(row);
                    row += 8;
                }
                while MR > 4 && row + 4 <= rows {
                    run.tile::<S, B, 4, NV, HALF, false>(row);
                    row += 4;
                }
                while MR > 2 && row + 2 <= rows {
                    run.tile::<S, B, 2, NV, HALF, false>(row);
                    row += 2;
                }
                while row < rows {
                    run.tile::<S, B, 1, NV, HALF, false>(row);
                    row += 1;
                }
            }
        }
    }

    /// `MR` rows over these blocks.
    ///
    /// # Safety
    /// As [`column`], with `row + MR` at most the rows of the panels.
    #[inline(always)]
    unsafe fn tile<
        S: Simd,
        const B: usize,
        const MR: usize,
        const NV: usize,
        const HALF: bool,
        const FIRST: bool,
    >(
        &self,
        row: usize,
    ) {
        let Factor { values, idx, inner, .. } = self.term.right;
        let mut tile = Tile::<S, MR, NV, HALF>::zero();
        // SAFETY: indices are those of a checked pattern, and the target is the caller's.
        unsafe {
            let to = self.to.ptr.add(row * self.to.stride + self.part);
            if self.add {
                tile.add(to, self.to.stride);
            }
            for (at, entry) in self.entries.clone().enumerate() {
                let block = *idx.get_unchecked(entry) as usize;
                // The last inner block may be ragged: what lies beyond it is not read.
                let depth = B.min(inner - block * B);
                let left = self.term.left.at(block, row, B);
                let offset = at * B * B + self.part;
                let right = match self.blocks {
                    // Only the first of several whole tiles leaves a copy.
                    Blocks::Copied(first, copy) if FIRST => {
                        tile.accumulate_copying::<B>(
                            left,
                            first.add(offset),
                            copy.add(offset),
                            depth,
                        );
                        continue;
                    }
                    Blocks::Ready(first) | Blocks::Copied(first, _) => first.add(offset),
                    Blocks::Each(room) => {
                        values.widen(entry, from_raw_parts_mut(room, B * B));
                        room.cast_const().add(self.part)
                    }
                };
                tile.accumulate(Strides::<B, 1, B>, left, right, depth);
            }
            if let (true, Some(bias)) = (self.last, self.to.bias) {
                tile.add_bias(bias.as_ptr().add(self.part));
            }
            if self.last && self.to.stream {
                tile.stream(to, self.to.stride);
            } else {
                tile.store(to, self.to.stride);
            }
        }
    }

    /// The copy of the first tile is there.
    #[inline(always)]
    fn after_first(&mut self) {
        if let Blocks::Copied(_, copy) = self.blocks {
            self.blocks = Blocks::Ready(copy);
        }
    }
}
