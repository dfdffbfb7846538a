//! The numbers of one launch, picked on the host.
//!
//! Supports what [`spmm`](super::super::spmm) supports, in the forward direction.

use crate::BlockSize;
use crate::cube::mma::offer::Offer;
use crate::cube::mma::tile::{MmaTile, Order};

/// Rows of the output tile, tallest first.
const ROWS: [usize; 3] = [256, 128, 64];
/// Most elements of the output tile: it takes two sums each, and 128 registers of sums are what a unit has room
/// for.
const MAX_ELEMENTS: usize = 128 * 128;
/// Fewest cubes per multiprocessor for which a tall tile is taken, as for one product. Guess; to be measured.
const MIN_CUBES_PER_UNIT: usize = 2;

/// How the two products are cut into cubes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Blueprint {
    /// Side of a block, and columns of the output tile.
    pub block: usize,
    /// Whether gate and up have one pattern. Then each step multiplies a tile of `x` by both blocks at once.
    pub joint: bool,
    /// The product of one step: as wide as a block, or two when joint. A plane's columns of it are then some of
    /// the gate's and the same of up's, so that both sums of an element meet in one unit.
    pub tile: MmaTile,
}

impl Blueprint {
    pub fn new(block: BlockSize, joint: bool, rows: usize, pipelined: bool) -> Self {
        let block = block.get();
        let (a, b) = (Order::ContractionInner, Order::ContractionOuter);
        let tile = MmaTile::new(rows, block, a, b, pipelined);
        Self { block, joint, tile: if joint { tile.doubled() } else { tile } }
    }

    /// Output columns of one plane.
    pub fn plane_cols(&self) -> usize {
        self.tile.plane_cols() / self.products()
    }

    /// Instruction tiles of one product along the columns of a plane.
    pub fn tiles_n(&self) -> usize {
        self.tile.tiles_n() / self.products()
    }

    /// From a sum of the gate to that of up, in the sums of one step's product.
    pub fn up_offset(&self) -> usize {
        if self.joint { self.tiles_n() } else { 0 }
    }

    fn products(&self) -> usize {
        if self.joint { 2 } else { 1 }
    }
}

/// Picks the tile for `m` rows and `lines` block columns. The tallest that `m` fills more than half and that
/// leaves enough cubes, else the shortest; never one that needs more shared memory than there is.
pub(crate) fn select(
    offer: &Offer,
    block: BlockSize,
    joint: bool,
    m: usize,
    lines: usize,
    pipelined: bool,
) -> Option<Blueprint> {
    let suits = |rows: usize| {
        let cubes = m.div_ceil(rows) * lines;
        rows == 64 || (m > rows / 2 && cubes >= MIN_CUBES_PER_UNIT * offer.compute_units)
    };
    rows(block)
        .filter(|&rows| suits(rows))
        .map(|rows| Blueprint::new(block, joint, rows, pipelined))
        .find(|plan| plan.tile.shared_bytes() <= offer.shared_bytes)
}

/// Heights of the tiles that a block of this side takes, tallest first.
pub(in crate::cube::mma) fn rows(block: BlockSize) -> impl Iterator<Item = usize> {
    ROWS.into_iter().filter(move |rows| rows * block.get() <= MAX_ELEMENTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cube::mma::offer::tests::AMPERE;
    use crate::cube::mma::tile::WIDE;

    #[test]
    fn the_tile_follows_rows_lines_and_shared_memory() {
        let tiny = Offer { shared_bytes: 16_384, ..AMPERE };
        let table = [
            ("one row", AMPERE, 64, false, 1, 512, Some(64)),
            ("65 rows", AMPERE, 64, false, 65, 512, Some(128)),
            ("many rows", AMPERE, 64, false, 8192, 128, Some(256)),
            ("many rows, large blocks", AMPERE, 128, false, 8192, 64, Some(128)),
            ("one pattern", AMPERE, 128, true, 8192, 64, Some(128)),
            ("fewer lines", AMPERE, 64, true, 1024, 16, Some(64)),
            ("a device with 16 KiB", tiny, 64, false, 8192, 64, None),
        ];
        for (name, offer, block, joint, m, lines, want) in table {
            let block = BlockSize::new(block).unwrap();
            let plan = select(&offer, block, joint, m, lines, true);
            assert_eq!(plan.map(|plan| plan.tile.rows), want, "{name}");
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
