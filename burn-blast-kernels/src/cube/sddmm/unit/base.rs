//! The numbers of one sampled product on register tiles, selected on the host.
//!
//! Supports every block size and any number of rows; refuses nothing.

use crate::BlockSize;

/// Rows and columns of a block that one unit keeps in registers.
const REGISTER_TILE: usize = 4;
/// Most units of a cube: the least that WebGPU promises.
const MAX_UNITS: usize = 256;
/// Widest tile: 64 x 64 in register tiles of 4 x 4 takes [`MAX_UNITS`].
const MAX_SIDE: usize = 64;
/// Fewest units of a cube, reached on small blocks by splitting the contraction. Two planes of the widest GPUs.
const MIN_UNITS: usize = 64;

/// The tile of one cube, and how its units share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Blueprint {
    /// Side of a block.
    pub block: usize,
    /// Side of the tile that a cube keeps in registers: a block, or a part of one.
    pub side: usize,
    /// Units that share one register tile, each taking every `groups`-th row of `x` and `dy`; a power of two.
    pub groups: usize,
    /// Rows of `x` and `dy` taken between two barriers.
    pub depth: usize,
}

impl Blueprint {
    /// Register tiles along one side of the tile.
    pub(crate) fn register_tiles(&self) -> usize {
        self.side / REGISTER_TILE
    }

    /// Register tiles of the tile: units that write results.
    pub(crate) fn writers(&self) -> usize {
        self.register_tiles() * self.register_tiles()
    }

    /// Units of a cube.
    pub(crate) fn units(&self) -> usize {
        self.writers() * self.groups
    }

    /// Tiles along one side of a block.
    pub(crate) fn side_tiles(&self) -> usize {
        self.block / self.side
    }

    /// Vectors of one input tile.
    pub(crate) fn tile(&self) -> usize {
        self.depth * self.side / 4
    }

    /// Vectors through which the groups hand over their sums; one if there is a single group.
    pub(crate) fn handover(&self) -> usize {
        if self.groups > 1 { self.units() * 4 } else { 1 }
    }
}

/// The tile for a device with at most `max_units` units per cube.
pub(crate) fn select(block: BlockSize, max_units: usize) -> Blueprint {
    // A power of two, as in a sum over units: CubeCL's CPU runtime has one unit per thread of the processor.
    let max_units = 1 << max_units.clamp(1, MAX_UNITS).ilog2();
    let mut side = block.get().min(MAX_SIDE);
    while (side / REGISTER_TILE).pow(2) > max_units {
        side /= 2;
    }
    let writers = (side / REGISTER_TILE).pow(2);
    let groups = (MIN_UNITS.min(max_units) / writers).max(1);
    // About 1024 elements in each input tile, and a whole number of rounds for the groups.
    let depth = (1024 / side).min(64).max(groups);
    Blueprint { block: block.get(), side, groups, depth }
}

/// Shared memory of a cube that also sums norms, in bytes.
pub(crate) fn shared_bytes(block: BlockSize, max_units: usize) -> usize {
    let tile = select(block, max_units);
    (2 * tile.tile() + tile.handover()) * 16 + tile.units() * 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_fits_the_smallest_device() {
        for block in BlockSize::ALL {
            let tile = select(block, 1024);
            assert!((64..=256).contains(&tile.units()), "{tile:?}");
            assert!(
                (2 * tile.tile() + tile.handover()) * 16 + tile.units() * 4 <= 16384,
                "{tile:?}"
            );
            assert_eq!(tile.depth % tile.groups, 0, "{tile:?}");
            assert_eq!(tile.block % tile.side, 0, "{tile:?}");
            assert!(tile.units().is_power_of_two(), "{tile:?}");
        }
    }

    #[test]
    fn any_number_of_units_gives_whole_rounds_of_a_power_of_two() {
        for block in BlockSize::ALL {
            for max_units in [1, 2, 3, 6, 7, 12, 20, 24, 48, 96, 255] {
                let tile = select(block, max_units);
                assert!(tile.units() <= max_units, "{max_units}: {tile:?}");
                assert!(tile.units().is_power_of_two(), "{max_units}: {tile:?}");
                assert_eq!(tile.depth % tile.groups, 0, "{max_units}: {tile:?}");
                assert_eq!(tile.block % tile.side, 0, "{max_units}: {tile:?}");
            }
        }
    }

    #[test]
    fn a_device_with_few_units_gets_a_small_tile() {
        let tile = select(BlockSize::new(32).unwrap(), 8);
        assert_eq!((tile.side, tile.groups, tile.units()), (8, 2, 8));
    }
}
