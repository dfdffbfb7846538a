//! Split-K: the contraction of one result split over several cubes, whose partial sums a second launch adds.
//!
//! A cube walks one block column of the output: a block column of the weight, or a block row where the weight is
//! transposed. If one is much longer than the others, the device waits for its cube. Such columns are split into
//! parts of equal length. How many depends on the device and on the number of row tiles, so the last bits of their
//! sums may differ between devices and between numbers of rows. They differ between launches only if `autotune` picks
//! another tile height.

use std::cmp::Reverse;
use std::sync::Arc;

use cubecl::prelude::*;

use super::index::{IndexBuffer, OnDevice};
use crate::BlockPattern;

/// Parts of one multiprocessor's share of the product. Parts are rounded up to a power of two, and columns of up to two
/// parts stay whole, so the longest cube takes between half a share and one.
const PARTS_PER_UNIT: usize = 4;
/// Fewest blocks of a part. Its partial sums are written and read once in f32, about as much traffic as the inputs of
/// three blocks. Guess; to be measured.
const MIN_BLOCKS: usize = 8;
/// Cubes per multiprocessor where a product is bound by reading the values. Guess; to be measured.
const CUBES_PER_UNIT: usize = 4;
/// Least bytes of values in a part of such a product. One cube reads about 8 KiB per microsecond, and adding parts
/// takes a launch of two or three. Guess; to be measured.
const MIN_BYTES: usize = 32 * 1024;
/// Cubes per multiprocessor up to which the rows of a sampled product are split. Guess; to be measured.
const SAMPLED_CUBES_PER_UNIT: usize = 2;
/// Fewest rows of a part: with fewer, writing and adding its partial sums costs more than it saves. Guess.
const MIN_ROWS: usize = 512;
/// Most parts of the rows: each needs room for all values in f32.
const MAX_ROW_PARTS: usize = 8;

/// In place of the number of a partial sum: the column is whole, and its result goes straight to the output.
pub(super) const WHOLE: u32 = u32::MAX;
/// Units of a cube that adds partial sums.
pub(super) const ADD_UNITS: usize = 256;

/// How long block columns are split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SplitK {
    /// Blocks per part.
    pub blocks: usize,
    rounding: Rounding,
}

/// Whether a part has at least or at most the blocks of the split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Rounding {
    AtLeast,
    AtMost,
}

impl SplitK {
    /// Parts of at least `blocks` blocks.
    pub(super) fn at_least(blocks: usize) -> Self {
        Self { blocks, rounding: Rounding::AtLeast }
    }

    /// Parts of at most `blocks` blocks; columns of at most twice this length stay whole.
    pub(super) fn at_most(blocks: usize) -> Self {
        Self { blocks, rounding: Rounding::AtMost }
    }

    /// For a product bound by reading its `blocks` blocks of `block_bytes` bytes each: even parts, but none too small
    /// to be worth a cube.
    pub(super) fn by_bytes(
        blocks: usize,
        block_bytes: usize,
        compute_units: Option<usize>,
    ) -> Self {
        let even = blocks.div_ceil(compute_units.unwrap_or(1) * CUBES_PER_UNIT);
        Self::at_least(even.max(MIN_BYTES.div_ceil(block_bytes)))
    }

    /// For a product of `nnz` blocks by `row_tiles` row tiles, bound by its longest cube. A power of two, so that a
    /// pattern is split in few ways. `None` where the number of multiprocessors is not known.
    pub(super) fn by_share(
        nnz: usize,
        row_tiles: usize,
        compute_units: Option<usize>,
    ) -> Option<Self> {
        let share = nnz * row_tiles / compute_units?;
        Some(Self::at_most((share / PARTS_PER_UNIT).max(MIN_BLOCKS).next_power_of_two()))
    }

    /// Parts of a column of `length` blocks.
    pub(super) fn parts(self, length: usize) -> usize {
        match self.rounding {
            Rounding::AtLeast => (length / self.blocks).max(1),
            Rounding::AtMost if length > 2 * self.blocks => length.div_ceil(self.blocks),
            Rounding::AtMost => 1,
        }
    }

    /// The split, if it splits a column as long as the longest.
    pub(super) fn if_splits(self, longest: usize) -> Option<Self> {
        (self.parts(longest) > 1).then_some(self)
    }

    /// Number of partial sums of all split columns. Columns begin at `ptr`.
    pub(super) fn partials(self, ptr: &[u32]) -> usize {
        let parts = ptr.windows(2).map(|ends| self.parts((ends[1] - ends[0]) as usize));
        parts.filter(|&parts| parts > 1).sum()
    }
}

/// Into how many parts the `m` rows of a sampled product are split, for `groups` groups of blocks.
pub(super) fn row_parts(compute_units: Option<usize>, m: usize, groups: usize) -> usize {
    let wanted = (SAMPLED_CUBES_PER_UNIT * compute_units.unwrap_or(1)).div_ceil(groups.max(1));
    wanted.min(m / MIN_ROWS).clamp(1, MAX_ROW_PARTS)
}

/// Column pointers of the block columns of the output.
pub(super) fn output_ptr(pattern: &BlockPattern, transposed: bool) -> &[u32] {
    if transposed { pattern.row_ptr() } else { pattern.col_ptr() }
}

/// Blocks in the longest block column of the output.
pub(super) fn longest(pattern: &BlockPattern, transposed: bool) -> usize {
    let (ptr, order) = (output_ptr(pattern, transposed), pattern.work_order());
    let order = if transposed { &order.rows_by_length } else { &order.cols_by_length };
    let column = order[0] as usize;
    (ptr[column + 1] - ptr[column]) as usize
}

/// Blocks in each block column of one pattern, or of two with the same grid.
pub(super) fn lengths(patterns: &[&BlockPattern]) -> Vec<usize> {
    let length = |pattern: &&BlockPattern, column: usize| {
        (pattern.col_ptr()[column + 1] - pattern.col_ptr()[column]) as usize
    };
    let columns = 0..patterns[0].block_cols();
    columns.map(|column| patterns.iter().map(|p| length(p, column)).sum()).collect()
}

/// The work of the cubes and of the launch that adds partial sums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Work {
    /// Numbers of each part, the longest parts first.
    pub parts: Vec<u32>,
    /// Number of parts.
    pub count: usize,
    /// Numbers by which the partial sums are added.
    pub columns: Vec<u32>,
    /// Number of split columns.
    pub split_columns: usize,
    /// Number of partial sums.
    pub partials: usize,
}

impl Work {
    /// For columns of these lengths, all of which are added up if one is split: `[column, part, parts of the column]`
    /// per part, the parts of a column in a row, and `[first part, parts]` per column.
    pub(super) fn by_column(lengths: &[usize], split: Option<SplitK>) -> Self {
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|&column| Reverse(lengths[column]));
        let mut columns = vec![[0; 2]; lengths.len()];
        let mut parts = Vec::new();
        for column in order {
            let count = split.map_or(1, |split| split.parts(lengths[column])) as u32;
            columns[column] = [parts.len() as u32, count];
            parts.extend((0..count).map(|part| [column as u32, part, count]));
        }
        Self {
            count: parts.len(),
            partials: parts.len(),
            split_columns: columns.iter().filter(|[_, parts]| *parts > 1).count(),
            parts: parts.into_flattened(),
            columns: columns.into_flattened(),
        }
    }

    /// For columns that begin at `ptr`, of which only the split ones are added up: `[column, first block, end,
    /// partial sum or WHOLE]` per part, and `[column, first partial sum, parts]` per split column.
    pub(super) fn by_range(ptr: &[u32], split: SplitK) -> Self {
        let (mut parts, mut columns, mut partials) = (Vec::new(), Vec::new(), 0);
        for (column, ends) in ptr.windows(2).enumerate() {
            let (column, start, length) = (column as u32, ends[0], (ends[1] - ends[0]) as usize);
            let count = split.parts(length);
            if count == 1 {
                parts.push([column, start, ends[1], WHOLE]);
                continue;
            }
            columns.push([column, partials, count as u32]);
            let at = |part: usize| start + (length * part / count) as u32;
            for part in 0..count {
                parts.push([column, at(part), at(part + 1), partials]);
                partials += 1;
            }
        }
        // Stable: parts of a column stay together, and the order is the same everywhere.
        parts.sort_by_key(|[_, start, end, _]| Reverse(end - start));
        Self {
            count: parts.len(),
            parts: parts.into_flattened(),
            split_columns: columns.len(),
            columns: columns.into_flattened(),
            partials: partials as usize,
        }
    }
}

/// [`Work`] on a device.
pub(super) struct WorkIndex {
    /// [`Work::parts`].
    pub parts: IndexBuffer,
    /// [`Work::columns`].
    pub columns: IndexBuffer,
    /// The same with its counts on the host.
    pub host: Work,
}

/// What distinguishes the work of one pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Column(Option<SplitK>),
    Range { transposed: bool, split: SplitK },
}

impl WorkIndex {
    /// [`Work::by_column`] for one pattern, or for two that are walked together.
    pub(super) fn by_column(
        patterns: &[&BlockPattern],
        client: &Client,
        split: Option<SplitK>,
    ) -> Arc<OnDevice<Key, Self>> {
        let other = patterns.get(1).copied();
        OnDevice::of(patterns[0], other, client, Key::Column(split), || {
            Self::upload(client, Work::by_column(&lengths(patterns), split))
        })
    }

    /// [`Work::by_range`] for the block columns of the output.
    pub(super) fn by_range(
        pattern: &BlockPattern,
        client: &Client,
        transposed: bool,
        split: SplitK,
    ) -> Arc<OnDevice<Key, Self>> {
        OnDevice::of(pattern, None, client, Key::Range { transposed, split }, || {
            Self::upload(client, Work::by_range(output_ptr(pattern, transposed), split))
        })
    }

    fn upload(client: &Client, work: Work) -> Self {
        let [parts, columns] =
            [&work.parts, &work.columns].map(|data| IndexBuffer::upload(client, data));
        Self { parts, columns, host: work }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_by_bytes_follows_the_table() {
        let table = [
            ("even, on a large device", 4480, 8192, Some(132), 9),
            ("not worth a cube", 300, 8192, Some(132), 4),
            ("small blocks", 300, 128, Some(132), 256),
            ("a device that does not say", 4480, 8192, None, 1120),
            ("no blocks", 0, 8192, Some(132), 4),
        ];
        for (name, blocks, bytes, compute_units, want) in table {
            assert_eq!(SplitK::by_bytes(blocks, bytes, compute_units).blocks, want, "{name}");
        }
    }

    #[test]
    fn the_split_by_share_follows_the_table() {
        let table = [
            ("the number of multiprocessors is not known", None, 4096, 16, None),
            ("few blocks", Some(132), 400, 1, Some(8)),
            ("a share of 992 blocks", Some(132), 4096, 32, Some(256)),
            ("a small device", Some(28), 4096, 32, Some(2048)),
            ("no blocks", Some(132), 0, 32, Some(8)),
        ];
        for (name, units, nnz, row_tiles, want) in table {
            let split = SplitK::by_share(nnz, row_tiles, units);
            assert_eq!(split, want.map(SplitK::at_most), "{name}");
        }
    }

    #[test]
    fn a_balanced_pattern_is_not_split_and_a_full_column_is() {
        // 128 columns of 16 to 24 blocks; then one of 256 among columns of 4.
        let balanced = SplitK::by_share(128 * 20, 32, Some(132)).unwrap();
        assert_eq!(balanced.if_splits(24), None);
        let skewed = SplitK::by_share(256 + 127 * 4, 32, Some(132)).unwrap();
        assert_eq!(skewed.if_splits(256), Some(skewed));
    }

    #[test]
    fn the_parts_of_a_column_are_in_a_row_and_the_longest_column_comes_first() {
        let work = Work::by_column(&[3, 0, 17, 7], Some(SplitK::at_least(4)));
        let parts = [[2, 0, 4], [2, 1, 4], [2, 2, 4], [2, 3, 4], [3, 0, 1], [0, 0, 1], [1, 0, 1]];
        assert_eq!(work.parts, parts.as_flattened());
        assert_eq!(work.columns, [[5, 1], [6, 1], [0, 4], [4, 1]].as_flattened());
        assert_eq!((work.count, work.partials, work.split_columns), (7, 7, 1));
        assert_eq!(SplitK::at_least(4).if_splits(7), None);
        assert_eq!(Work::by_column(&[3, 0, 17], None).count, 3);
    }

    #[test]
    fn a_long_column_is_split_and_the_rest_stay_whole() {
        // One full column of 20 blocks, an empty one, one of two.
        let (ptr, split) = ([0, 20, 20, 22], SplitK::at_most(8));
        let work = Work::by_range(&ptr, split);
        let parts =
            [[0, 6, 13, 1], [0, 13, 20, 2], [0, 0, 6, 0], [2, 20, 22, WHOLE], [1, 20, 20, WHOLE]];
        assert_eq!(work.parts, parts.as_flattened());
        assert_eq!(work.columns, [0, 0, 3]);
        assert_eq!((work.count, work.split_columns, work.partials), (5, 1, 3));
        assert_eq!(split.partials(&ptr), 3);
    }

    #[test]
    fn every_block_is_in_one_part_and_none_exceeds_the_bound() {
        let ptr = [0, 64, 64, 65, 98, 130, 131, 131];
        for bound in [1, 2, 8, 16, 32] {
            let work = Work::by_range(&ptr, SplitK::at_most(bound));
            let parts = work.parts.as_chunks::<4>().0;
            let mut blocks: Vec<u32> =
                parts.iter().flat_map(|[_, start, end, _]| *start..*end).collect();
            blocks.sort_unstable();
            assert_eq!(blocks, (0..131).collect::<Vec<_>>(), "bound {bound}");
            for [_, start, end, partial] in parts {
                let most = if *partial == WHOLE { 2 * bound } else { bound };
                assert!((end - start) as usize <= most, "bound {bound}");
            }
            let mut partials: Vec<u32> =
                parts.iter().map(|part| part[3]).filter(|&at| at != WHOLE).collect();
            partials.sort_unstable();
            assert_eq!(partials, (0..work.partials as u32).collect::<Vec<_>>(), "bound {bound}");
            // Each column is written once: whole, or by adding.
            let whole = parts.iter().filter(|part| part[3] == WHOLE).count();
            assert_eq!(whole + work.split_columns, ptr.len() - 1, "bound {bound}");
        }
    }

    #[test]
    fn rows_are_split_where_groups_are_few() {
        let table = [
            ("many groups", 8192, 4096, 1),
            ("few groups", 8192, 100, 3),
            ("one group", 8192, 1, 8),
            ("few rows", 1023, 1, 1),
            ("no rows", 0, 1, 1),
            ("no groups", 8192, 0, 8),
        ];
        for (name, m, groups, want) in table {
            assert_eq!(row_parts(Some(108), m, groups), want, "{name}");
        }
    }
}
