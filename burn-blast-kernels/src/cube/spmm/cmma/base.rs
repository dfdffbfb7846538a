//! The numbers of one product on cooperative matrices, selected on the host.
//!
//! Supports f16, and bf16 where the device lists it with sums in f32; f32 where the device lists 16 x 16 x 8 in TF32
//! and [`allow_tf32`](crate::cube::allow_tf32) allows it; blocks of 16 and more; any number of rows; both sides of
//! the weight a multiple of 4; planes of 32 or 64 units. Refuses, with no candidate, devices with too little shared
//! memory or too few units.

use crate::BlockSize;
use crate::cube::caps::{Caps, MatrixKind};
use crate::cube::tile::cmma::{CmmaTile, MAX_COLS, MAX_DEPTH};
use crate::cube::tile::{Order, best_first};

/// Rows of the output tile, tallest first. The taller one may need more than 32 KiB of shared memory.
const ROWS: [usize; 2] = [128, 64];

/// The tile of one cube, and the blocks it walks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Blueprint {
    /// Whether the weight is transposed: then the outer index of a block is the output.
    pub transposed: bool,
    /// Side of a block.
    pub block: usize,
    /// The product of one cube.
    pub tile: CmmaTile,
}

impl Blueprint {
    fn new(
        caps: &Caps,
        matrix: MatrixKind,
        block: BlockSize,
        transposed: bool,
        rows: usize,
    ) -> Self {
        let block = block.get();
        // The contraction runs down the rows of a block, or along them when transposed.
        let b = if transposed { Order::ContractionInner } else { Order::ContractionOuter };
        let size = [rows, block.min(MAX_COLS)];
        let order = [Order::ContractionInner, b];
        let depth = block.min(MAX_DEPTH / matrix.element.size());
        let tile = CmmaTile::new(caps, matrix, size, depth, order);
        Self { transposed, block, tile }
    }

    /// Tiles side by side in a block.
    pub(crate) fn col_tiles(&self) -> usize {
        self.block / self.tile.cols
    }
}

/// The tiles for a product of `m` rows and `block_cols` block columns of output that fit the device, in the order of
/// [`best_first`].
pub(crate) fn candidates(
    caps: &Caps,
    matrix: MatrixKind,
    block: BlockSize,
    transposed: bool,
    work: [usize; 2],
) -> Vec<Blueprint> {
    let tiles = ROWS.map(|rows| Blueprint::new(caps, matrix, block, transposed, rows)).into_iter();
    let fitting = tiles.filter(|tile| tile.tile.fits(caps)).collect();
    best_first(fitting, |tile: &Blueprint| tile.tile.rows, caps, work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cube::caps::tests::{AMPERE, AMPERE_F32, APPLE, F16_BY_16};

    fn of_block(caps: &Caps, block: BlockSize, work: [usize; 2]) -> Vec<Blueprint> {
        candidates(caps, caps.cmma.unwrap(), block, false, work)
    }

    #[test]
    fn the_tile_follows_rows_columns_and_the_device() {
        let tiny = Caps { shared_bytes: 16_384, ..AMPERE };
        let narrow = Caps { max_units: 128, ..AMPERE };
        let table = [
            ("many rows", AMPERE, 8192, 128, vec![128, 64]),
            ("few rows", AMPERE, 64, 512, vec![64, 128]),
            ("32 KiB and 16 x 16", Caps { cmma: Some(F16_BY_16), ..APPLE }, 8192, 128, vec![64]),
            ("16 KiB", tiny, 8192, 128, vec![]),
            ("cubes of 128", narrow, 8192, 128, vec![]),
        ];
        for (name, caps, m, block_cols, want) in table {
            let found = of_block(&caps, BlockSize::new(64).unwrap(), [m, block_cols]);
            let rows: Vec<usize> = found.iter().map(|blueprint| blueprint.tile.rows).collect();
            assert_eq!(rows, want, "{name}");
        }
    }

    #[test]
    fn a_block_holds_a_whole_number_of_stages_and_metal_has_room() {
        for block in BlockSize::ALL.into_iter().filter(|block| block.get() >= 16) {
            for caps in [AMPERE, AMPERE_F32, APPLE] {
                let blueprints = of_block(&caps, block, [8192, 4096]);
                assert!(blueprints.iter().any(|blueprint| blueprint.tile.rows == 64), "{block:?}");
                assert!(
                    blueprints.iter().all(|blueprint| blueprint.block % blueprint.tile.depth == 0),
                    "{blueprints:?}"
                );
            }
        }
    }

    #[test]
    fn a_stage_of_tf32_has_half_the_steps_in_as_many_bytes() {
        let block = BlockSize::new(64).unwrap();
        let [half, tf32] =
            [AMPERE, AMPERE_F32].map(|caps| of_block(&caps, block, [8192, 128])[0].tile);
        assert_eq!((half.rows, half.depth, tf32.rows, tf32.depth), (128, 32, 128, 16));
        // 128 lines of 64 + 16 bytes beside 32 lines of 128 + 16, or 16 of 256 + 32; and the handover.
        assert_eq!(half.shared_bytes(), 2 * (128 * 80 + 32 * 144) + 8 * 1024);
        assert_eq!(tf32.shared_bytes(), 2 * (128 * 80 + 16 * 288) + 8 * 1024);
    }
}
