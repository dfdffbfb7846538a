//! Register tiles, on any device: no tensor cores, no plane operations, at most 16 KiB of shared memory and 256 units
//! per cube.

use cubecl::prelude::*;

use crate::BlockSize;
use crate::cube::load::{F4, load4};

/// Fewest rows of a tile on a device with room for them: few rows still bring enough units to fill the tiles.
const MIN_ROWS: usize = 16;
/// Rows and columns of `y` that one unit keeps in registers.
pub(crate) const REGISTER_TILE: usize = 4;
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
}

impl UnitTile {
    /// Units along the columns.
    pub(crate) fn units_n(&self) -> usize {
        self.cols / REGISTER_TILE
    }

    /// Units along the rows.
    pub(crate) fn units_m(&self) -> usize {
        self.rows / REGISTER_TILE
    }

    /// Units of a cube.
    pub(crate) fn units(&self) -> usize {
        self.units_n() * self.units_m()
    }

    /// Tiles side by side in a block.
    pub(crate) fn col_tiles(&self) -> usize {
        self.block / self.cols
    }

    /// Vectors from one row of the `x` tile to the next; one more than needed, so that units reading
    /// the same column of different rows use different memory banks.
    pub(crate) fn x_pitch(&self) -> usize {
        self.depth / 4 + 1
    }

    /// Vectors from one row of the `w` tile to the next. The transposed tile is read down its columns,
    /// hence padded as `x` is.
    pub(crate) fn w_pitch(&self) -> usize {
        if self.transposed { self.depth / 4 + 1 } else { self.cols / 4 }
    }

    /// Vectors of the `x` tile.
    pub(crate) fn x_tile(&self) -> usize {
        self.rows * self.x_pitch()
    }

    /// Vectors of the `w` tile.
    pub(crate) fn w_tile(&self) -> usize {
        self.w_pitch() * if self.transposed { self.cols } else { self.depth }
    }
}

/// The tile for `m` rows on a device with at most `max_units` units per cube.
pub(crate) fn select(block: BlockSize, transposed: bool, m: usize, max_units: usize) -> UnitTile {
    let block = block.get();
    let cols = block.min(MAX_COLS);
    let most = if cols < 32 { MAX_ROWS_NARROW } else { MAX_ROWS };
    let rows = m.min(most).next_power_of_two().clamp(MIN_ROWS, most);
    let mut tile = UnitTile { transposed, block, rows, cols, depth: block.min(MAX_DEPTH) };
    let max_units = max_units.clamp(1, MAX_UNITS);
    while tile.units() > max_units && tile.rows > REGISTER_TILE {
        tile.rows /= 2;
    }
    while tile.units() > max_units && tile.cols > REGISTER_TILE {
        tile.cols /= 2;
    }
    tile
}

/// The same tile at half the height, which gives more cubes, if enough units remain to fill the tiles.
pub(crate) fn shorter(tile: UnitTile) -> Option<UnitTile> {
    let rows = tile.rows / 2;
    (rows >= MIN_ROWS).then_some(UnitTile { rows, ..tile })
}

/// Most shared memory of a cube, in bytes: with the tallest tile in either direction, and forward with one block of
/// each weight of a gated pair with one pattern.
pub(crate) fn shared_bytes(block: BlockSize, max_units: usize) -> usize {
    let bytes = |transposed, weights| {
        let tile = select(block, transposed, usize::MAX / 2, max_units);
        (tile.x_tile() + weights * tile.w_tile()) * 16
    };
    bytes(false, 2).max(bytes(true, 1))
}

/// Copies `[rows, depth]` of `x`.
#[cube]
pub(crate) fn fill_x<F: Float, N: Size>(
    x: &[Vector<F, N>],
    x_tile: &mut Shared<[F4]>,
    first_row: usize,
    first_k: usize,
    m: usize,
    k: usize,
    #[comptime] tile: UnitTile,
) {
    let width = comptime!(tile.depth / 4);
    for at in range_stepped(
        UNIT_POS as usize,
        comptime!(tile.rows * tile.depth / 4),
        comptime!(tile.units()),
    ) {
        let row = at / width;
        let quad = at % width;
        x_tile[row * comptime!(tile.x_pitch()) + quad] =
            load4::<F, N>(x, first_row + row, first_k + quad * 4, m, k);
    }
}

/// Copies `[depth, cols]` of a block, or `[cols, depth]` when transposed: rows of a block stay rows, so
/// that both directions read memory in order.
#[cube]
pub(crate) fn fill_w<F: Float>(
    values: &[Vector<F, Const<4>>],
    w_tile: &mut Shared<[F4]>,
    block_slot: usize,
    inner_k: usize,
    inner_col: usize,
    #[comptime] tile: UnitTile,
) {
    let width = comptime!(if tile.transposed { tile.depth / 4 } else { tile.cols / 4 });
    let (first_row, first_col) =
        if comptime!(tile.transposed) { (inner_col, inner_k) } else { (inner_k, inner_col) };
    let origin = (block_slot * tile.block + first_row) * tile.block + first_col;
    for at in range_stepped(
        UNIT_POS as usize,
        comptime!(tile.cols * tile.depth / 4),
        comptime!(tile.units()),
    ) {
        let row = at / width;
        let quad = at % width;
        w_tile[row * comptime!(tile.w_pitch()) + quad] =
            F4::cast_from(values[(origin + row * tile.block) / 4 + quad]);
    }
}

/// Adds one step to the 4 x 4 sums of a unit. The rows of a unit are `units_m` apart, and its columns `units_n` apart
/// when transposed, so that the units of a plane read neighbouring vectors.
#[cube]
pub(crate) fn multiply(
    x_tile: &Shared<[F4]>,
    w_tile: &Shared<[F4]>,
    sums: &mut Array<F4>,
    unit_m: usize,
    unit_n: usize,
    #[comptime] tile: UnitTile,
) {
    for quad in 0..comptime!(tile.depth / 4) {
        // w[j] holds four columns of contraction row `4 quad + j`.
        let mut w = Array::<F4>::new(4usize);
        if comptime!(tile.transposed) {
            let mut columns = Array::<F4>::new(4usize);
            #[unroll]
            for j in 0..4usize {
                let row = unit_n + j * comptime!(tile.units_n());
                columns[j] = w_tile[row * comptime!(tile.w_pitch()) + quad];
            }
            #[unroll]
            for j in 0..4usize {
                let mut row = F4::zeroed();
                #[unroll]
                for c in 0..4usize {
                    row.insert(c, columns[c].extract(j));
                }
                w[j] = row;
            }
        } else {
            #[unroll]
            for j in 0..4usize {
                w[j] = w_tile[(quad * 4 + j) * comptime!(tile.w_pitch()) + unit_n];
            }
        }
        #[unroll]
        for i in 0..4usize {
            let row = unit_m + i * comptime!(tile.units_m());
            let x = x_tile[row * comptime!(tile.x_pitch()) + quad];
            #[unroll]
            for j in 0..4usize {
                sums[i] = fma(F4::new(x.extract(j)), w[j], sums[i]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_device_with_few_units_gets_a_small_tile() {
        let tile = select(BlockSize::new(128).unwrap(), false, 512, 8);
        assert_eq!((tile.rows, tile.cols, tile.units()), (4, 32, 8));
    }
}
