//! The numbers of one sampled product on tensor cores, selected on the host.
//!
//! Supports what the products on tensor cores support. Refuses, with no tile, devices with too little shared memory.

use crate::BlockSize;
use crate::cube::caps::Caps;
use crate::cube::tile::Order;
use crate::cube::tile::mma::MmaTile;

/// Rows of the output tile: the blocks of one block column that fill it share their tile of `dy`. Guess between that
/// sharing and groups left partly empty.
const ROWS: usize = 128;

/// The tile of one cube, and the blocks it computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Blueprint {
    /// Side of a block, and columns of the output tile.
    pub block: usize,
    /// The product of one cube: up to [`group`](Self::group) blocks of one block column.
    pub tile: MmaTile,
}

impl Blueprint {
    fn new(block: BlockSize, pipelined: bool) -> Self {
        let order = Order::ContractionOuter;
        let tile = MmaTile::new(ROWS, block.get(), order, order, pipelined);
        Self { block: block.get(), tile }
    }

    /// Most blocks of a cube.
    pub(crate) fn group(&self) -> usize {
        self.tile.rows / self.block
    }
}

/// The tile, unless it needs more shared memory than there is.
pub(crate) fn select(caps: &Caps, block: BlockSize, pipelined: bool) -> Option<Blueprint> {
    let blueprint = Blueprint::new(block, pipelined);
    (blueprint.tile.shared_bytes() <= caps.shared_bytes).then_some(blueprint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cube::caps::tests::AMPERE;

    #[test]
    fn a_device_with_little_shared_memory_gets_none() {
        let block = BlockSize::new(64).unwrap();
        assert!(select(&AMPERE, block, true).is_some());
        assert!(select(&Caps { shared_bytes: 16_384, ..AMPERE }, block, true).is_none());
    }
}
