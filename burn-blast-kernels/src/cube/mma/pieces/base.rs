//! Where long lines of blocks are cut, decided on the host.
//!
//! A cube walks one line. If a line is longer than what a multiprocessor gets of the whole product, the device
//! waits for that one cube. Lines are therefore cut so that none of them takes longer than that share. How
//! many pieces there are depends on the device and on the number of tiles of rows, so sums may differ in their last
//! bits between devices and numbers of rows; between launches only if `autotune` picks another height of the tile.

use crate::BlockPattern;

/// Parts of a multiprocessor's share that a piece may be. Pieces are rounded up to a power of two, and lines
/// of up to two pieces stay whole, so that the longest cube takes between half a share and one.
const PIECES_PER_UNIT: usize = 4;
/// Fewest blocks of a piece. Its partial sums are written and read once in f32, about as much traffic as the
/// inputs of three blocks. Guess; to be measured.
const MIN_BLOCKS: usize = 8;
/// In place of the number of a partial sum: the line is whole and goes straight to the output.
pub(crate) const WHOLE: u32 = u32::MAX;

/// Most blocks of a piece, for a product of `nnz` blocks by `row_tiles` tiles of rows. A power of two, so that a
/// pattern has few ways to be cut. `None` where the number of multiprocessors is not known.
pub(crate) fn bound(compute_units: usize, nnz: usize, row_tiles: usize) -> Option<usize> {
    if compute_units <= 1 {
        return None;
    }
    let share = nnz * row_tiles / compute_units;
    Some((share / PIECES_PER_UNIT).max(MIN_BLOCKS).next_power_of_two())
}

/// Whether a line of this length is cut.
pub(crate) fn is_cut(length: usize, bound: usize) -> bool {
    length > 2 * bound
}

/// [`bound`] for the pattern's block rows (`transposed`) or columns, if the longest of them is cut.
pub(in crate::cube) fn longest_bound(
    pattern: &BlockPattern,
    transposed: bool,
    compute_units: usize,
    row_tiles: usize,
) -> Option<usize> {
    let order = pattern.work_order();
    let (ptr, order) = if transposed {
        (pattern.row_ptr(), &order.rows_by_length)
    } else {
        (pattern.col_ptr(), &order.cols_by_length)
    };
    let line = order[0] as usize;
    let bound = bound(compute_units, pattern.nnz(), row_tiles)?;
    is_cut((ptr[line + 1] - ptr[line]) as usize, bound).then_some(bound)
}

/// The work of a product, line by line, and what is left to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    /// For each cube column its line, first block, end, and the number of its partial sum or [`WHOLE`]; longest
    /// first.
    pub pieces: Vec<[u32; 4]>,
    /// For each line that is cut: the line, its first partial sum, and how many there are.
    pub lines: Vec<[u32; 3]>,
    /// Partial sums of all lines.
    pub partials: usize,
}

/// Cuts the lines that begin at `ptr` into pieces of at most `bound` blocks, equal but for one block.
pub(crate) fn cut(ptr: &[u32], bound: usize) -> Cut {
    let mut cut = Cut { pieces: Vec::new(), lines: Vec::new(), partials: 0 };
    for (line, ends) in ptr.windows(2).enumerate() {
        let (line, start, length) = (line as u32, ends[0], (ends[1] - ends[0]) as usize);
        if !is_cut(length, bound) {
            cut.pieces.push([line, start, ends[1], WHOLE]);
            continue;
        }
        let count = length.div_ceil(bound);
        cut.lines.push([line, cut.partials as u32, count as u32]);
        let at = |piece: usize| start + (length * piece / count) as u32;
        for piece in 0..count {
            cut.pieces.push([line, at(piece), at(piece + 1), cut.partials as u32]);
            cut.partials += 1;
        }
    }
    // Stable: pieces of a line stay together, and the order is the same everywhere.
    cut.pieces.sort_by_key(|[_, start, end, _]| std::cmp::Reverse(end - start));
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_and_the_rest_stay_whole() {
        // One full line of 20 blocks, an empty one, one of two.
        let cut = cut(&[0, 20, 20, 22], 8);
        assert_eq!(
            cut.pieces,
            [[0, 6, 13, 1], [0, 13, 20, 2], [0, 0, 6, 0], [2, 20, 22, WHOLE], [1, 20, 20, WHOLE]]
        );
        assert_eq!(cut.lines, [[0, 0, 3]]);
        assert_eq!(cut.partials, 3);
    }

    #[test]
    fn every_block_is_in_one_piece_and_none_exceeds_the_bound() {
        let ptr = [0, 64, 64, 65, 98, 130, 131, 131];
        for bound in [1, 2, 8, 16, 32] {
            let cut = cut(&ptr, bound);
            let mut blocks: Vec<u32> =
                cut.pieces.iter().flat_map(|[_, start, end, _]| *start..*end).collect();
            blocks.sort_unstable();
            assert_eq!(blocks, (0..131).collect::<Vec<_>>(), "bound {bound}");
            for [_, start, end, partial] in &cut.pieces {
                let most = if *partial == WHOLE { 2 * bound } else { bound };
                assert!((end - start) as usize <= most, "bound {bound}");
            }
            let mut partials: Vec<u32> =
                cut.pieces.iter().map(|piece| piece[3]).filter(|&at| at != WHOLE).collect();
            partials.sort_unstable();
            assert_eq!(partials, (0..cut.partials as u32).collect::<Vec<_>>(), "bound {bound}");
            // Each line is written once: whole, or by adding.
            let whole = cut.pieces.iter().filter(|piece| piece[3] == WHOLE).count();
            assert_eq!(whole + cut.lines.len(), ptr.len() - 1, "bound {bound}");
        }
    }

    #[test]
    fn the_bound_follows_the_share_of_a_multiprocessor() {
        let table = [
            ("the number of multiprocessors is not known", 1, 4096, 16, None),
            ("few blocks", 132, 400, 1, Some(8)),
            ("a share of 992 blocks", 132, 4096, 32, Some(256)),
            ("a small device", 28, 4096, 32, Some(2048)),
            ("no blocks", 132, 0, 32, Some(8)),
        ];
        for (name, units, nnz, row_tiles, want) in table {
            assert_eq!(bound(units, nnz, row_tiles), want, "{name}");
        }
    }

    #[test]
    fn a_balanced_pattern_is_not_cut_and_a_full_column_is() {
        // 128 lines of 16 to 24 blocks; then one of 256 among lines of 4.
        let row_tiles = 32;
        let balanced = bound(132, 128 * 20, row_tiles).unwrap();
        assert!(!is_cut(24, balanced));
        let skewed = bound(132, 256 + 127 * 4, row_tiles).unwrap();
        assert!(is_cut(256, skewed), "{skewed}");
    }
}
