//! The numbers of one sampled product on cooperative matrices, selected on the host.
//!
//! Supports what the products on cooperative matrices support. Rows are not split: only CUDA says how many cubes run
//! side by side.

use crate::BlockSize;
use crate::cube::caps::{Caps, MatrixKind};
use crate::cube::tile::Order;
use crate::cube::tile::cmma::{CmmaTile, MAX_COLS, MAX_DEPTH};

/// The tile of one cube, and the blocks it computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Blueprint {
    /// Side of a block.
    pub block: usize,
    /// The product of one cube: several blocks of one block column, or a part of one.
    pub tile: CmmaTile,
}

impl Blueprint {
    /// Most blocks of a cube.
    pub(crate) fn group(&self) -> usize {
        (self.tile.rows / self.block).max(1)
    }

    /// Tiles along one side of a block.
    pub(crate) fn side_tiles(&self) -> usize {
        self.block / self.tile.cols
    }
}

/// The tile, unless the device has too little shared memory or too few units.
pub(crate) fn select(caps: &Caps, matrix: MatrixKind, block: BlockSize) -> Option<Blueprint> {
    let block = block.get();
    let (size, order) = ([MAX_COLS, block.min(MAX_COLS)], [Order::ContractionOuter; 2]);
    let tile = CmmaTile::new(caps, matrix, size, MAX_DEPTH / matrix.element.size(), order);
    tile.fits(caps).then_some(Blueprint { block, tile })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cube::caps::tests::{AMPERE, AMPERE_F32, APPLE};

    #[test]
    fn a_cube_has_whole_blocks_or_a_whole_part_of_one() {
        for block in BlockSize::ALL.into_iter().filter(|block| block.get() >= 16) {
            for caps in [AMPERE, AMPERE_F32, APPLE] {
                let blueprint = select(&caps, caps.cmma.unwrap(), block).unwrap();
                assert_eq!(
                    blueprint.group() * blueprint.block % blueprint.tile.rows,
                    0,
                    "{blueprint:?}"
                );
            }
        }
    }
}
