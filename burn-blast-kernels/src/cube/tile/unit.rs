//! Register tiles, on any device: no tensor cores, no plane operations, at most 16 KiB of shared memory and 256 units
//! per cube.
//!
//! A unit keeps up to 8 x 8 sums. While it multiplies one pair of tiles in shared memory, the vectors of the next pair
//! are on their way to its registers; it then writes them to the other half of that memory, so that a step has one
//! barrier.

use crate::BlockSize;

pub(crate) mod registers;

/// Fewest rows of a tile on a device with room for them: few rows still bring enough units to fill the tiles.
const MIN_ROWS: usize = 16;
/// Rows of a tile for up to [`LOW`] rows, where it is 64 columns wide: a taller one would leave few cubes.
const MIDDLE_ROWS: usize = 64;
/// Most rows for which wide tiles have at most [`MIDDLE_ROWS`].
pub(crate) const LOW: usize = 2 * MIDDLE_ROWS;
/// Most rows of a tile.
const MAX_ROWS: usize = 128;
/// Widest tile: at block 128, two cubes share a block, since 128 columns would leave too few rows.
const MAX_COLS: usize = 64;
/// Fewest and most rows or columns of `y` that one unit keeps in registers. 8 x 8 sums take 16 fused multiply-adds
/// per vector read from shared memory, 4 x 4 take 8.
const MIN_UNIT: usize = 4;
const MAX_UNIT: usize = 8;
/// Most units of a cube: the least that WebGPU promises.
const MAX_UNITS: usize = 256;
/// Units of a cube below which a unit keeps fewer columns. Guess: the widest plane of most devices.
const FEW_UNITS: usize = 32;
/// Deepest step through a block, where the tiles fit.
const MAX_DEPTH: usize = 16;
/// Shared memory that WebGPU promises, in bytes.
const SHARED_BYTES: usize = 16 * 1024;
/// Copies of the tiles in shared memory: one is read while the other is written.
const BUFFERS: usize = 2;

/// The tile of one cube, and how its units share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct UnitTile {
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
    /// Rows that one unit keeps in registers.
    pub unit_rows: usize,
    /// Columns that one unit keeps in registers.
    pub unit_cols: usize,
}

impl UnitTile {
    /// Units along the columns.
    pub(crate) fn units_n(&self) -> usize {
        self.cols / self.unit_cols
    }

    /// Units along the rows.
    pub(crate) fn units_m(&self) -> usize {
        self.rows / self.unit_rows
    }

    /// Units of a cube.
    pub(crate) fn units(&self) -> usize {
        self.units_n() * self.units_m()
    }

    /// Tiles side by side in a block.
    pub(crate) fn col_tiles(&self) -> usize {
        self.block / self.cols
    }

    /// Vectors of sums in a row of a unit.
    pub(crate) fn quads(&self) -> usize {
        self.unit_cols / 4
    }

    /// Vectors of the sums of a unit.
    pub(crate) fn sums(&self) -> usize {
        self.unit_rows * self.quads()
    }

    /// Steps through a block.
    pub(crate) fn steps(&self) -> usize {
        self.block / self.depth
    }

    /// Vectors of a tile of `side` rows, or `side` columns, of one step.
    fn vectors(&self, side: usize) -> usize {
        side * self.depth / 4
    }

    /// Vectors of both copies of the `x` tile.
    pub(crate) fn x_tile(&self) -> usize {
        BUFFERS * self.vectors(self.rows)
    }

    /// Vectors of both copies of the `w` tile.
    pub(crate) fn w_tile(&self) -> usize {
        BUFFERS * self.vectors(self.cols)
    }

    /// Vectors of the `x` tile that a unit copies.
    pub(crate) fn x_ahead(&self) -> usize {
        self.vectors(self.rows).div_ceil(self.units())
    }

    /// Vectors of the `w` tile that a unit copies.
    pub(crate) fn w_ahead(&self) -> usize {
        self.vectors(self.cols).div_ceil(self.units())
    }

    /// Shared memory of a cube that reads `weights` weights, in bytes.
    pub(crate) fn shared_bytes(&self, weights: usize) -> usize {
        (self.x_tile() + weights * self.w_tile()) * 16
    }
}

/// The tile for `m` rows of a product on a device with at most `max_units` units per cube.
pub(crate) fn select(block: BlockSize, transposed: bool, m: usize, max_units: usize) -> UnitTile {
    let wide = block.get() > 32;
    let most = if wide && m <= LOW { MIDDLE_ROWS } else { MAX_ROWS };
    let rows = m.min(most).next_power_of_two().clamp(MIN_ROWS, most);
    fitting(block, transposed, rows, max_units, 1)
}

/// The tile for `m` rows of a pair of products. Both have sums, so a unit keeps half as many of each.
pub(crate) fn select_pair(block: BlockSize, m: usize, max_units: usize) -> UnitTile {
    let rows = m.min(MIDDLE_ROWS).next_power_of_two().clamp(MIN_ROWS, MIDDLE_ROWS);
    fitting(block, false, rows, max_units, 2)
}

/// The same tile at half the height, which gives more cubes, if enough units remain to fill the tiles.
pub(crate) fn shorter(block: BlockSize, tile: UnitTile, max_units: usize) -> Option<UnitTile> {
    let rows = tile.rows / 2;
    (rows >= MIN_ROWS).then(|| fitting(block, tile.transposed, rows, max_units, 1))
}

/// The tile of `rows` rows, or of as many as the units of a device can hold, for `weights` weights.
fn fitting(
    block: BlockSize,
    transposed: bool,
    rows: usize,
    max_units: usize,
    weights: usize,
) -> UnitTile {
    let max_units = max_units.clamp(1, MAX_UNITS);
    let (mut rows, mut cols) = (rows, block.get().min(MAX_COLS));
    loop {
        let tile = of_size(block.get(), transposed, [rows, cols], max_units, weights);
        if tile.units() <= max_units {
            return tile;
        }
        if rows > MIN_UNIT { rows /= 2 } else { cols /= 2 }
    }
}

/// The tile of this size, with as many sums in a unit as leave enough units.
fn of_size(
    block: usize,
    transposed: bool,
    [rows, cols]: [usize; 2],
    max_units: usize,
    weights: usize,
) -> UnitTile {
    let unit_rows = if rows >= 64 && cols >= 16 { MAX_UNIT } else { MIN_UNIT };
    let unit_cols = if cols >= 32 && weights == 1 { MAX_UNIT } else { MIN_UNIT };
    let mut tile = UnitTile {
        transposed,
        block,
        rows,
        cols,
        depth: block.min(MAX_DEPTH),
        unit_rows,
        unit_cols,
    };
    if tile.units() < FEW_UNITS && 2 * tile.units() <= max_units {
        tile.unit_cols = MIN_UNIT;
    }
    while tile.shared_bytes(weights) > SHARED_BYTES {
        tile.depth /= 2;
    }
    tile
}

/// Most shared memory of a cube, in bytes: for any number of rows, in either direction, and forward with one block of
/// each weight of a gated pair with one pattern.
pub(crate) fn shared_bytes(block: BlockSize, max_units: usize) -> usize {
    let rows = [MIN_ROWS, 32, MIDDLE_ROWS, MAX_ROWS, usize::MAX / 2].into_iter();
    let bytes = |m| {
        let product = |transposed| select(block, transposed, m, max_units).shared_bytes(1);
        let pair = select_pair(block, m, max_units).shared_bytes(2);
        product(false).max(product(true)).max(pair)
    };
    rows.map(bytes).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_fits_the_smallest_device() {
        for block in BlockSize::ALL {
            for m in [1, 16, 17, 33, 64, 65, 100, 128, 129, 8192] {
                for max_units in [1, 2, 7, 48, 64, 1024] {
                    let product = |transposed| (select(block, transposed, m, max_units), 1);
                    let pair = (select_pair(block, m, max_units), 2);
                    for (tile, weights) in [product(false), product(true), pair] {
                        assert!(tile.units() <= max_units.min(256), "{tile:?}");
                        assert!(tile.shared_bytes(weights) <= 16384, "{tile:?}");
                        assert!(tile.shared_bytes(weights) <= shared_bytes(block, max_units));
                        assert_eq!(tile.block % tile.cols, 0, "{tile:?}");
                        assert_eq!(tile.block % tile.depth, 0, "{tile:?}");
                        assert_eq!(tile.cols % tile.unit_cols, 0, "{tile:?}");
                        assert_eq!(tile.rows % tile.unit_rows, 0, "{tile:?}");
                        assert!(8 % (tile.depth / 4) == 0, "{tile:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_sizes_follow_the_table() {
        let table = [
            (64, 64, (64, 64, 16, [8, 8])),
            (64, 512, (128, 64, 8, [8, 8])),
            (128, 512, (128, 64, 8, [8, 8])),
            (32, 64, (64, 32, 16, [8, 8])),
            (32, 512, (128, 32, 8, [8, 8])),
            (32, 17, (32, 32, 16, [4, 8])),
            (32, 16, (16, 32, 16, [4, 4])),
            (16, 512, (128, 16, 8, [8, 4])),
            (8, 512, (128, 8, 8, [4, 4])),
        ];
        for (block, m, want) in table {
            let tile = select(BlockSize::new(block).unwrap(), false, m, 1024);
            let got = (tile.rows, tile.cols, tile.depth, [tile.unit_rows, tile.unit_cols]);
            assert_eq!(got, want, "blocks of {block}, {m} rows");
        }
    }

    #[test]
    fn a_device_with_few_units_gets_a_small_tile() {
        let tile = select(BlockSize::new(128).unwrap(), false, 512, 8);
        assert_eq!((tile.rows, tile.cols, tile.units()), (4, 64, 8));
    }
}
