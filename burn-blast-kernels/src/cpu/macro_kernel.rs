//! The macro-kernel of all host products: one block column of the output, as a sum over the blocks of its column.

use std::ops::Range;
use std::slice::from_raw_parts_mut;

use derive_new::new;
use macerator::{AutoArch, Simd, WithSimd};

use super::microkernel::{RegisterTile, Strides, used_lanes, with_tile_shape};
use super::panels::Panels;
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
    inner_blocks: &'a [u32],
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

    /// Length of the buffer in which [`macro_kernel`] converts, transposes or aligns blocks.
    pub(super) fn scratch_len(&self) -> usize {
        let longest = self.starts.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0);
        // One more block, which is converted there before it is transposed.
        ((longest as usize).min(self.group_len()) + 1) * self.b * self.b
    }

    /// Blocks of a group.
    fn group_len(&self) -> usize {
        GROUP_FLOATS / (self.b * self.b)
    }

    /// Entries of group `group` of a column.
    fn group(&self, col: usize, group: usize) -> Range<usize> {
        let end = self.starts[col + 1] as usize;
        let start = (self.starts[col] as usize + group * self.group_len()).min(end);
        start..end.min(start + self.group_len())
    }

    /// Groups of a column. An empty column has one too, because its output has to be written.
    fn groups(&self, col: usize) -> usize {
        ((self.starts[col + 1] - self.starts[col]) as usize).div_ceil(self.group_len()).max(1)
    }

    /// Makes the blocks of `entries` available as `f32`. `reused` says whether they are read more than once.
    ///
    /// # Safety
    /// `scratch` must have room for [`scratch_len`](Self::scratch_len) floats.
    #[inline(always)]
    unsafe fn blocks(&self, entries: Range<usize>, reused: bool, scratch: *mut f32) -> BlockSource {
        let area = self.b * self.b;
        // SAFETY: the caller's: no group is longer, and there is room for one block more.
        let room = |at: usize| unsafe { from_raw_parts_mut(scratch.add(at * area), area) };
        if let Direction::Transposed { slots } = self.direction {
            for (at, entry) in entries.clone().enumerate() {
                let slot = slots[entry] as usize;
                if let Values::F32(values) = self.values {
                    transpose(&values[slot * area..(slot + 1) * area], room(at), self.b);
                } else {
                    let wide = room(entries.len());
                    self.values.widen(slot, wide);
                    transpose(wide, room(at), self.b);
                }
            }
            return BlockSource::Ready(scratch);
        }
        match self.values {
            Values::F32(values) => {
                let from = values[entries.start * area..].as_ptr();
                let aligned = from.addr().is_multiple_of(CACHE_LINE_BYTES);
                if aligned || !reused {
                    BlockSource::Ready(from)
                } else {
                    BlockSource::Unaligned { from, copy: scratch }
                }
            }
            _ if reused => {
                for (at, entry) in entries.enumerate() {
                    self.values.widen(entry, room(at));
                }
                BlockSource::Ready(scratch)
            }
            _ => BlockSource::Convert(scratch),
        }
    }
}

/// For the AMX kernels, which bring blocks into their own layout.
#[cfg(all(feature = "amx", target_arch = "x86_64", target_os = "linux"))]
impl SparseOperand<'_> {
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

    /// Whether value blocks are used transposed.
    pub(super) fn is_transposed(&self) -> bool {
        matches!(self.direction, Direction::Transposed { .. })
    }
}

/// Where a tile reads the blocks of a group.
#[derive(Clone, Copy)]
enum BlockSource {
    /// Consecutive blocks of `f32`.
    Ready(*const f32),
    /// Consecutive blocks of `f32` across cache lines, where a vector load costs two. The first tile copies them to
    /// aligned memory for the tiles that follow.
    Unaligned { from: *const f32, copy: *mut f32 },
    /// Each block is converted when it is read, into this buffer of one block.
    Convert(*mut f32),
}

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
/// This is the only code that is compiled for every instruction set and block size. All products call it.
///
/// # Safety
/// - `to` has room for whole blocks in every row of the panels
/// - all panels have the same number of rows and belong to their operand
/// - all operands have the same block size, and `scratch` the [`scratch_len`](SparseOperand::scratch_len) of each
pub(super) unsafe fn macro_kernel(
    terms: &[Term<'_>],
    col: usize,
    to: Target<'_>,
    scratch: &mut [f32],
) {
    AutoArch::new().dispatch(MacroKernel { terms, col, to, scratch: scratch.as_mut_ptr() });
}

struct MacroKernel<'a> {
    terms: &'a [Term<'a>],
    col: usize,
    to: Target<'a>,
    scratch: *mut f32,
}

impl WithSimd for MacroKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let b = self.terms[0].weight.b;
        // SAFETY: the caller's of `macro_kernel`.
        unsafe { with_tile_shape!(S, b, all_groups(&self)) }
    }
}

/// # Safety
/// As [`macro_kernel`]; `B` is the block size of every operand, and the width of a tile divides it.
#[inline(always)]
unsafe fn all_groups<
    S: Simd,
    const B: usize,
    const MR: usize,
    const NV: usize,
    const HALF: bool,
>(
    kernel: &MacroKernel<'_>,
) {
    let &MacroKernel { terms, col, to, scratch } = kernel;
    let rows = terms[0].input.rows();
    let width = NV * used_lanes::<S, HALF>();
    for (at, term) in terms.iter().enumerate() {
        let reused = rows > MR || B > width;
        for group in 0..term.weight.groups(col) {
            let entries = term.weight.group(col, group);
            let last = at + 1 == terms.len() && group + 1 == term.weight.groups(col);
            let add = at > 0 || group > 0;
            // SAFETY: the caller's.
            let blocks = unsafe { term.weight.blocks(entries.clone(), reused, scratch) };
            let group = Group { term, entries, add, to, last, blocks, first_col: 0 };
            // SAFETY: the caller's.
            unsafe { group.all_rows::<S, B, MR, NV, HALF>(rows) };
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
        S: Simd,
        const B: usize,
        const MR: usize,
        const NV: usize,
        const HALF: bool,
    >(
        &self,
        rows: usize,
    ) {
        for first_col in (0..B).step_by(NV * used_lanes::<S, HALF>()) {
            let mut group = Self { first_col, ..self.clone() };
            let mut row = 0;
            // SAFETY: the caller's; rows stay below `rows`.
            unsafe {
                if rows >= MR {
                    group.tile::<S, B, MR, NV, HALF, true>(0);
                    // From now on the aligned copy made by the first tile is read.
                    if let BlockSource::Unaligned { copy, .. } = group.blocks {
                        group.blocks = BlockSource::Ready(copy);
                    }
                    row = MR;
                }
                while row + MR <= rows {
                    group.tile::<S, B, MR, NV, HALF, false>(row);
                    row += MR;
                }
                while MR > 8 && row + 8 <= rows {
                    group.tile::<S, B, 8, NV, HALF, false>(row);
                    row += 8;
                }
                while MR > 4 && row + 4 <= rows {
                    group.tile::<S, B, 4, NV, HALF, false>(row);
                    row += 4;
                }
                while MR > 2 && row + 2 <= rows {
                    group.tile::<S, B, 2, NV, HALF, false>(row);
                    row += 2;
                }
                while row < rows {
                    group.tile::<S, B, 1, NV, HALF, false>(row);
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
        let SparseOperand { values, inner_blocks, inner, .. } = self.term.weight;
        let mut tile = RegisterTile::<S, MR, NV, HALF>::zero();
        // SAFETY: the indices come from a checked pattern, and the caller guarantees the target.
        unsafe {
            let to = self.to.ptr.add(row * self.to.stride + self.first_col);
            if self.add {
                tile.add(to, self.to.stride);
            }
            for (at, entry) in self.entries.clone().enumerate() {
                let block = *inner_blocks.get_unchecked(entry) as usize;
                // The last inner block may be ragged; nothing beyond it is read.
                let depth = B.min(inner - block * B);
                let left = self.term.input.at(block, row, B);
                let offset = at * B * B + self.first_col;
                let right = match self.blocks {
                    BlockSource::Unaligned { from, copy } if FIRST => {
                        tile.accumulate_copying::<B>(
                            left,
                            from.add(offset),
                            copy.add(offset),
                            depth,
                        );
                        continue;
                    }
                    BlockSource::Ready(from) | BlockSource::Unaligned { from, .. } => {
                        from.add(offset)
                    }
                    BlockSource::Convert(room) => {
                        values.widen(entry, from_raw_parts_mut(room, B * B));
                        room.cast_const().add(self.first_col)
                    }
                };
                tile.accumulate(Strides::<B, 1, B>, left, right, depth);
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
