//! The numbers of one product on tensor cores, selected on the host.
//!
//! Supports f16 and bf16 with sums in f32; blocks of 32, 64 and 128; any number of rows; both sides of the weight a
//! multiple of 8, so that every row of a tensor starts at 16 bytes; planes of 32 units. Refuses, with no candidate,
//! devices with too little shared memory for the smallest tile.

use crate::BlockSize;
use crate::cube::caps::Caps;
use crate::cube::tile::mma::MmaTile;
use crate::cube::tile::{Order, best_first};

/// Rows of the output tile, tallest first. A block of `w` is read once for each tile of rows, so a tall tile
/// saves traffic to shared memory.
const ROWS: [usize; 3] = [256, 128, 64];

/// The tile of one cube, and the blocks it walks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Blueprint {
    /// Whether the weight is transposed: then the outer index of a block is the output.
    pub transposed: bool,
    /// Side of a block, and columns of the output tile.
    pub block: usize,
    /// The product of one cube.
    pub tile: MmaTile,
}

impl Blueprint {
    fn new(block: BlockSize, transposed: bool, rows: usize, pipelined: bool) -> Self {
        let block = block.get();
        // The contraction runs down the rows of a block, or along them when transposed.
        let b = if transposed { Order::ContractionInner } else { Order::ContractionOuter };
        let tile = MmaTile::new(rows, block, Order::ContractionInner, b, pipelined);
        Self { transposed, block, tile }
    }
}

/// The tiles for `m` rows and `block_cols` block columns of output that fit the shared memory, in the order of
/// [`best_first`].
pub(crate) fn candidates(
    caps: &Caps,
    block: BlockSize,
    transposed: bool,
    work: [usize; 2],
    pipelined: bool,
) -> Vec<Blueprint> {
    let tiles = ROWS.map(|rows| Blueprint::new(block, transposed, rows, pipelined)).into_iter();
    let fitting = tiles.filter(|tile| tile.tile.shared_bytes() <= caps.shared_bytes).collect();
    best_first(fitting, |tile: &Blueprint| tile.tile.rows, caps, work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cube::caps::tests::AMPERE;

    fn rows(caps: &Caps, block: usize, work: [usize; 2]) -> Option<usize> {
        let block = BlockSize::new(block).unwrap();
        candidates(caps, block, false, work, true).first().map(|blueprint| blueprint.tile.rows)
    }

    #[test]
    fn the_tile_follows_rows_columns_and_shared_memory() {
        let small = Caps { shared_bytes: 101_376, compute_units: Some(28), ..AMPERE };
        let tiny = Caps { shared_bytes: 16_384, ..AMPERE };
        let table = [
            ("one row", AMPERE, 64, 1, 512, Some(64)),
            ("64 rows", AMPERE, 64, 64, 512, Some(64)),
            ("65 rows", AMPERE, 64, 65, 512, Some(128)),
            ("129 rows", AMPERE, 64, 129, 512, Some(256)),
            ("many rows", AMPERE, 64, 8192, 128, Some(256)),
            ("many rows, few columns", AMPERE, 64, 1024, 32, Some(128)),
            ("fewer columns", AMPERE, 64, 1024, 16, Some(64)),
            ("a device with 99 KiB", small, 128, 8192, 64, Some(256)),
            ("a device with 16 KiB", tiny, 64, 8192, 64, None),
        ];
        for (name, caps, block, m, block_cols, want) in table {
            assert_eq!(rows(&caps, block, [m, block_cols]), want, "{name}");
        }
    }

    #[test]
    fn a_block_holds_a_whole_number_of_stages() {
        for block in [32, 64, 128] {
            for transposed in [false, true] {
                let block = BlockSize::new(block).unwrap();
                let blueprint = Blueprint::new(block, transposed, 128, true);
                assert_eq!(blueprint.block % blueprint.tile.depth(), 0, "{blueprint:?}");
                assert_eq!(
                    blueprint.tile.a.lines * blueprint.tile.a.line % blueprint.tile.units(),
                    0
                );
            }
        }
    }
}
