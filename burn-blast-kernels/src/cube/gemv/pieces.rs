//! Long block columns cut into pieces, one a cube.

use std::sync::Arc;

use cubecl::prelude::*;

use crate::BlockPattern;
use crate::cube::index::IndexBuffer;
use crate::pattern::WeakPattern;

/// Cubes that a multiprocessor should have. Guess; to be measured.
const CUBES_PER_UNIT: usize = 4;
/// Least bytes of values in a piece. One cube reads about 8 KiB in a microsecond, and adding pieces up takes a
/// launch of two or three. Guess; to be measured.
const LEAST_BYTES: usize = 32 * 1024;

/// Blocks of a piece: an even share of all blocks, but not less than is worth a cube.
pub(super) fn share(blocks: usize, block_bytes: usize, compute_units: usize) -> usize {
    let even = blocks.div_ceil(compute_units * CUBES_PER_UNIT);
    even.max(LEAST_BYTES.div_ceil(block_bytes))
}

/// Pieces of a column of `blocks`: none is shorter than the share, so that columns up to twice as long stay whole.
fn pieces(blocks: usize, share: usize) -> usize {
    (blocks / share).max(1)
}

/// Which piece of which column each cube takes, and where the pieces of a column begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pieces {
    /// Column, piece and number of pieces; longest columns first, the pieces of a column in a row.
    pub items: Vec<[u32; 3]>,
    /// First item and number of pieces of each column.
    pub columns: Vec<[u32; 2]>,
}

impl Pieces {
    /// Cuts columns with so many blocks.
    pub fn new(lengths: &[usize], share: usize) -> Self {
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|&column| std::cmp::Reverse(lengths[column]));
        let mut columns = vec![[0; 2]; lengths.len()];
        let mut items = Vec::new();
        for column in order {
            let count = pieces(lengths[column], share) as u32;
            columns[column] = [items.len() as u32, count];
            items.extend((0..count).map(|piece| [column as u32, piece, count]));
        }
        Self { items, columns }
    }

    /// Whether any column is cut.
    pub fn cut(&self) -> bool {
        self.items.len() > self.columns.len()
    }
}

/// Blocks in each column of one pattern, or of two of the same grid.
pub(super) fn lengths(patterns: &[&BlockPattern]) -> Vec<usize> {
    let columns = patterns[0].block_cols();
    let length = |pattern: &&BlockPattern, column: usize| {
        (pattern.col_ptr()[column + 1] - pattern.col_ptr()[column]) as usize
    };
    (0..columns).map(|column| patterns.iter().map(|p| length(p, column)).sum()).collect()
}

/// The pieces on a device.
pub(super) struct PieceIndex {
    client: Client,
    share: usize,
    other: Option<WeakPattern>,
    /// Number of cubes for one tile of rows.
    pub count: usize,
    /// Whether any column is cut.
    pub cut: bool,
    /// [`Pieces::items`].
    pub items: IndexBuffer,
    /// [`Pieces::columns`].
    pub columns: IndexBuffer,
}

impl PieceIndex {
    /// The pieces for one pattern, or for two walked together; made on first use and kept with the first, until the
    /// second is gone.
    pub fn of(patterns: &[&BlockPattern], client: &Client, share: usize) -> Arc<Self> {
        let other = patterns.get(1);
        let alive = |index: &Self| index.other.as_ref().is_none_or(WeakPattern::is_alive);
        let here = |index: &Self| {
            index.share == share
                && index.client.service_id() == client.service_id()
                && match (&index.other, other) {
                    (Some(weak), Some(pattern)) => weak.is(pattern),
                    (None, None) => true,
                    _ => false,
                }
        };
        patterns[0].attached_while(alive, here, || {
            let pieces = Pieces::new(&lengths(patterns), share);
            Self {
                client: client.clone(),
                share,
                other: other.map(|pattern| pattern.downgrade()),
                count: pieces.items.len(),
                cut: pieces.cut(),
                items: IndexBuffer::upload(client, pieces.items.as_flattened()),
                columns: IndexBuffer::upload(client, pieces.columns.as_flattened()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_follows_the_table() {
        let table = [
            ("even, on a large device", 4480, 8192, 132, 9),
            ("not worth a cube", 300, 8192, 132, 4),
            ("small blocks", 300, 128, 132, 256),
            ("a device that does not say", 4480, 8192, 1, 1120),
            ("no blocks", 0, 8192, 132, 4),
        ];
        for (name, blocks, bytes, compute_units, want) in table {
            assert_eq!(share(blocks, bytes, compute_units), want, "{name}");
        }
    }

    #[test]
    fn every_column_has_its_pieces_in_a_row_and_the_longest_comes_first() {
        let cut = Pieces::new(&[3, 0, 17, 7], 4);
        let items = [[2, 0, 4], [2, 1, 4], [2, 2, 4], [2, 3, 4], [3, 0, 1], [0, 0, 1], [1, 0, 1]];
        assert_eq!(cut.items, items);
        assert_eq!(cut.columns, [[5, 1], [6, 1], [0, 4], [4, 1]]);
        assert!(cut.cut());
        assert!(!Pieces::new(&[3, 0, 7], 4).cut());
    }
}
