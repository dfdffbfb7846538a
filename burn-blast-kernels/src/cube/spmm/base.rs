//! The numbers of one product, picked on the host.
//!
//! Supports every block size, any number of rows and both directions; refuses nothing.

use crate::{BlockPattern, BlockSize};

/// Fewest rows of a tile on a device with room for them: few rows still bring enough units to fill the tiles.
const MIN_ROWS: usize = 16;
/// Rows and columns of `y` that one unit keeps in registers.
pub(super) const REGISTER_TILE: usize = 4;
/// Most units of a cube: the least that WebGPU promises.
const MAX_UNITS: usize = 256;
/// Widest tile: at block 128, two cubes share a block, since 128 columns would leave too few rows.
const MAX_COLS: usize = 64;
/// Depth of one step through a block. 16 keeps both tiles under 16 KiB with room to spare; deeper steps
/// save barriers but cost occupancy. Guess; to be measured.
const MAX_DEPTH: usize = 16;
/// Most rows of a tile, by its width: wide tiles reach [`MAX_UNITS`] at 64 rows. Guess for narrow ones.
const MAX_ROWS: usize = 64;
const MAX_ROWS_NARROW: usize = 128;

/// How a product is cut into cubes, and a cube into units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::cube) struct Blueprint {
    /// Whether the weight is transposed: then the outer index of a block is the output.
    pub transposed: bool,
    /// Side of a block.
    pub block: usize,
    /// Rows of the output tile.
    pub rows: usize,
    /// Columns of the output tile: a block, or a part of one.
    pub cols: usize,
    /// Contraction steps taken between two barriers.
    pub depth: usize,
}

impl Blueprint {
    /// Units along the columns.
    pub fn units_n(&self) -> usize {
        self.cols / REGISTER_TILE
    }

    /// Units along the rows.
    pub fn units_m(&self) -> usize {
        self.rows / REGISTER_TILE
    }

    /// Units of a cube.
    pub fn units(&self) -> usize {
        self.units_n() * self.units_m()
    }

    /// Cubes that share a block column.
    pub fn parts(&self) -> usize {
        self.block / self.cols
    }

    /// Vectors from one row of the `x` tile to the next; one more than needed, so that units reading
    /// the same column of different rows meet different memory banks.
    pub fn x_pitch(&self) -> usize {
        self.depth / 4 + 1
    }

    /// Vectors from one row of the `w` tile to the next. The transposed tile is read down its columns,
    /// hence padded as `x` is.
    pub fn w_pitch(&self) -> usize {
        if self.transposed { self.depth / 4 + 1 } else { self.cols / 4 }
    }

    /// Vectors of the `x` tile.
    pub fn x_tile(&self) -> usize {
        self.rows * self.x_pitch()
    }

    /// Vectors of the `w` tile.
    pub fn w_tile(&self) -> usize {
        self.w_pitch() * if self.transposed { self.cols } else { self.depth }
    }
}

/// Picks the tile for `m` rows on a device with at most `max_units` units a cube.
pub(in crate::cube) fn select(
    block: BlockSize,
    transposed: bool,
    m: usize,
    max_units: usize,
) -> Blueprint {
    let block = block.get();
    let cols = block.min(MAX_COLS);
    let most = if cols < 32 { MAX_ROWS_NARROW } else { MAX_ROWS };
    let rows = m.min(most).next_power_of_two().clamp(MIN_ROWS, most);
    let mut tile = Blueprint { transposed, block, rows, cols, depth: block.min(MAX_DEPTH) };
    let max_units = max_units.clamp(1, MAX_UNITS);
    while tile.units() > max_units && tile.rows > REGISTER_TILE {
        tile.rows /= 2;
    }
    while tile.units() > max_units && tile.cols > REGISTER_TILE {
        tile.cols /= 2;
    }
    tile
}

/// The same tile at half the height, which leaves more cubes, if units to fill the tiles remain.
pub(super) fn shorter(tile: Blueprint) -> Option<Blueprint> {
    let rows = tile.rows / 2;
    (rows >= MIN_ROWS).then_some(Blueprint { rows, ..tile })
}

/// Shared memory of a cube with the tallest tile in either direction, in bytes. Forward for a gated pair of one
/// pattern, which has a block of each weight there.
pub(in crate::cube) fn shared_bytes(block: BlockSize, max_units: usize) -> usize {
    let bytes = |transposed, weights| {
        let tile = select(block, transposed, usize::MAX / 2, max_units);
        (tile.x_tile() + weights * tile.w_tile()) * 16
    };
    bytes(false, 2).max(bytes(true, 1))
}

/// Cubes of the larger of the two products of `m` rows, in the shortest tile that tuning may pick; those on tensor
/// cores are no shorter. Never falls as `m` grows.
pub(in crate::cube) fn cubes(pattern: &BlockPattern, m: usize, max_units: usize) -> u64 {
    let tile = select(pattern.block(), false, m, max_units);
    let tile = shorter(tile).unwrap_or(tile);
    let lines = pattern.block_rows().max(pattern.block_cols());
    m.div_ceil(tile.rows) as u64 * (lines * tile.parts()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MatrixShape;

    #[test]
    fn every_tile_fits_the_smallest_device() {
        for block in BlockSize::ALL {
            for transposed in [false, true] {
                for m in [1, 16, 17, 33, 64, 100, 8192] {
                    let tile = select(block, transposed, m, 1024);
                    assert!(tile.units() <= 256, "{tile:?}");
                    assert!(shared_bytes(block, 1024) <= 16384, "{tile:?}");
                    assert!(
                        (tile.x_tile() + tile.w_tile()) * 16 <= shared_bytes(block, 1024),
                        "{tile:?}"
                    );
                    assert_eq!(tile.block % tile.cols, 0, "{tile:?}");
                    assert_eq!(tile.block % tile.depth, 0, "{tile:?}");
                }
            }
        }
    }

    #[test]
    fn cubes_never_fall_as_rows_grow() {
        for block in BlockSize::ALL {
            let pattern = BlockPattern::dense(MatrixShape::new(256, 384).unwrap(), block);
            for max_units in [4, 32, 64, 1024] {
                let counts: Vec<u64> = (1..600).map(|m| cubes(&pattern, m, max_units)).collect();
                assert!(counts.is_sorted(), "{block:?}, {max_units}");
            }
        }
    }

    #[test]
    fn few_rows_take_a_short_tile() {
        let block = BlockSize::new(64).unwrap();
        assert_eq!(select(block, false, 1, 1024).rows, 16);
        assert_eq!(select(block, false, 33, 1024).rows, 64);
    }

    #[test]
    fn a_device_with_few_units_gets_a_small_tile() {
        let tile = select(BlockSize::new(128).unwrap(), false, 512, 8);
        assert_eq!((tile.rows, tile.cols, tile.units()), (4, 32, 8));
    }
}
