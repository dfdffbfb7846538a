//! The numbers of one launch on tensor cores, selected on the host.
//!
//! Supports what the forward products on tensor cores support. Refuses, with no tile, devices with too little shared
//! memory.

use crate::BlockSize;
use crate::cube::caps::Caps;
use crate::cube::tile::mma::MmaTile;
use crate::cube::tile::{Order, best_first};

/// Rows of the output tile, tallest first.
const ROWS: [usize; 3] = [256, 128, 64];
/// Most elements of the output tile: each takes two sums, and a unit has room for 128 registers of sums.
const MAX_ELEMENTS: usize = 128 * 128;

/// The tile of one cube, and the blocks it walks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Blueprint {
    /// Side of a block, and columns of the output tile.
    pub block: usize,
    /// Whether gate and up have one pattern. Then each step multiplies a tile of `x` by both blocks.
    pub joint: bool,
    /// The product of one step: as wide as a block, or as two when joint. A plane then has the same columns of gate and up, so
    /// that one unit holds both sums of an element.
    pub tile: MmaTile,
}

impl Blueprint {
    fn new(block: BlockSize, joint: bool, rows: usize, pipelined: bool) -> Self {
        let block = block.get();
        let (a, b) = (Order::ContractionInner, Order::ContractionOuter);
        let tile = MmaTile::new(rows, block, a, b, pipelined);
        Self { block, joint, tile: if joint { tile.doubled() } else { tile } }
    }

    /// Output columns of one plane.
    pub(crate) fn plane_cols(&self) -> usize {
        self.tile.plane_cols() / self.tile.b.products
    }

    /// Instruction tiles of one product along the columns of a plane.
    pub(crate) fn tiles_n(&self) -> usize {
        self.tile.tiles_n() / self.tile.b.products
    }

    /// Distance from a sum of the gate to the same sum of up.
    pub(crate) fn up_offset(&self) -> usize {
        if self.joint { self.tiles_n() } else { 0 }
    }
}

/// The tiles for `m` rows and `block_cols` block columns that fit the shared memory, in the order of [`best_first`].
pub(crate) fn candidates(
    caps: &Caps,
    block: BlockSize,
    joint: bool,
    work: [usize; 2],
    pipelined: bool,
) -> Vec<Blueprint> {
    let tiles = rows(block).map(|rows| Blueprint::new(block, joint, rows, pipelined));
    let fitting = tiles.filter(|tile| tile.tile.shared_bytes() <= caps.shared_bytes).collect();
    best_first(fitting, |tile: &Blueprint| tile.tile.rows, caps, work)
}

/// Tile heights for this block, tallest first.
fn rows(block: BlockSize) -> impl Iterator<Item = usize> {
    ROWS.into_iter().filter(move |rows| rows * block.get() <= MAX_ELEMENTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cube::caps::tests::AMPERE;
    use crate::cube::tile::mma::WIDE;

    #[test]
    fn the_tile_follows_the_block_columns_and_shared_memory() {
        let tiny = Caps { shared_bytes: 16_384, ..AMPERE };
        let table = [
            ("many rows", AMPERE, 64, false, 8192, 128, Some(256)),
            ("many rows, large blocks", AMPERE, 128, false, 8192, 64, Some(128)),
            ("one pattern", AMPERE, 128, true, 8192, 64, Some(128)),
            ("one row", AMPERE, 64, false, 1, 512, Some(64)),
            ("fewer columns", AMPERE, 64, true, 1024, 16, Some(64)),
            ("a device with 16 KiB", tiny, 64, false, 8192, 64, None),
        ];
        for (name, caps, block, joint, m, block_cols, want) in table {
            let block = BlockSize::new(block).unwrap();
            let blueprints = candidates(&caps, block, joint, [m, block_cols], true);
            assert_eq!(blueprints.first().map(|blueprint| blueprint.tile.rows), want, "{name}");
        }
    }

    #[test]
    fn the_columns_of_a_plane_are_the_same_of_both_products() {
        for block in [32, 64, 128] {
            let block = BlockSize::new(block).unwrap();
            for rows in rows(block) {
                let [apart, joint] =
                    [false, true].map(|joint| Blueprint::new(block, joint, rows, true));
                assert_eq!(apart.plane_cols(), joint.plane_cols(), "{joint:?}");
                assert_eq!(joint.tile.tiles_n(), 2 * joint.up_offset(), "{joint:?}");
                assert_eq!(joint.plane_cols() % WIDE, 0, "{joint:?}");
                // Right fragments are loaded two at a time.
                assert_eq!(joint.tile.tiles_n() % 2, 0, "{joint:?}");
                assert!(joint.tile.shared_bytes() <= AMPERE.shared_bytes, "{joint:?}");
            }
        }
    }
}
