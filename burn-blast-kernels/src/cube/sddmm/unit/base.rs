//! The numbers of one sampled product on register tiles, selected on the host.
//!
//! Supports every block size and any number of rows; refuses nothing.

use crate::BlockSize;

/// Fewest and most rows and columns of a block that one unit keeps in registers.
const MIN_UNIT: usize = 4;
const MAX_UNIT: usize = 8;
/// Most units of a cube: the least that WebGPU promises.
const MAX_UNITS: usize = 256;
/// Widest tile: 64 x 64 in register tiles of 8 x 8 takes two planes of the widest GPUs.
const MAX_SIDE: usize = 64;
/// Fewest units of a cube, reached on small blocks by several of them, or by splitting the contraction. Two planes of the
/// widest GPUs.
const MIN_UNITS: usize = 64;
/// Most blocks of a cube: a block column of 90 % sparsity has seldom more.
const MAX_BLOCKS: usize = 8;
/// Fewest and most rows taken between two barriers, and the elements of `dy` that are wanted there.
const MIN_DEPTH: usize = 8;
const MAX_DEPTH: usize = 64;
const TILE: usize = 512;

/// The tile of one cube, and how its units share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Blueprint {
    /// Side of a block.
    pub block: usize,
    /// Side of the tile that a cube keeps in registers: a block, or a part of one.
    pub side: usize,
    /// Rows and columns of it that a unit keeps.
    pub unit: usize,
    /// Blocks of one block column that a cube computes side by side, with one tile of `dy`.
    pub blocks: usize,
    /// Units that share one register tile, each taking every `groups`-th row of `x` and `dy`; a power of two.
    pub groups: usize,
    /// Rows of `x` and `dy` taken between two barriers.
    pub depth: usize,
}

impl Blueprint {
    /// Register tiles along one side of the tile.
    pub(crate) fn register_tiles(&self) -> usize {
        self.side / self.unit
    }

    /// Register tiles of a block.
    pub(crate) fn block_tiles(&self) -> usize {
        self.register_tiles() * self.register_tiles()
    }

    /// Register tiles of a cube: units that write results.
    pub(crate) fn writers(&self) -> usize {
        self.blocks * self.block_tiles()
    }

    /// Units of a cube.
    pub(crate) fn units(&self) -> usize {
        self.writers() * self.groups
    }

    /// Tiles along one side of a block.
    pub(crate) fn side_tiles(&self) -> usize {
        self.block / self.side
    }

    /// Vectors of a row of a unit.
    pub(crate) fn quads(&self) -> usize {
        self.unit / 4
    }

    /// Vectors of the sums of a unit.
    pub(crate) fn sums(&self) -> usize {
        self.unit * self.quads()
    }

    /// Vectors of a row of the `x` tile.
    pub(crate) fn x_width(&self) -> usize {
        self.blocks * self.dy_width()
    }

    /// Vectors of a row of the `dy` tile.
    pub(crate) fn dy_width(&self) -> usize {
        self.side / 4
    }

    /// Vectors of an input tile with rows of `width` vectors.
    pub(crate) fn tile(&self, width: usize) -> usize {
        self.depth * width
    }

    /// Vectors of it that a unit copies.
    pub(crate) fn ahead(&self, width: usize) -> usize {
        self.tile(width).div_ceil(self.units())
    }

    /// Vectors through which the groups hand over a row of their sums; one if there is a single group.
    pub(crate) fn handover(&self) -> usize {
        if self.groups > 1 { self.units() * self.quads() } else { 1 }
    }

    /// Shared memory of a cube that also sums norms, in bytes.
    pub(crate) fn shared_bytes(&self) -> usize {
        let tiles = self.tile(self.x_width()) + self.tile(self.dy_width());
        (2 * tiles + self.handover()) * 16 + self.units() * 4
    }
}

/// The tile for a device with at most `max_units` units per cube.
pub(crate) fn select(block: BlockSize, max_units: usize) -> Blueprint {
    let tile = one_block(block, max_units);
    // Where a block has several tiles, or a cube few units, one is enough.
    let units = MIN_UNITS.min(units(max_units));
    let most = if tile.side == tile.block { MAX_BLOCKS } else { 1 };
    Blueprint { blocks: (units / tile.block_tiles()).clamp(1, most), ..tile }
}

/// The same for norms of the whole grid: one block, of which groups of units take every other row.
pub(crate) fn select_norms(block: BlockSize, max_units: usize) -> Blueprint {
    let tile = one_block(block, max_units);
    let groups = (MIN_UNITS.min(units(max_units)) / tile.block_tiles()).max(1);
    // A whole number of rounds for the groups.
    let depth = (TILE / tile.side).clamp(MIN_DEPTH, MAX_DEPTH).max(groups);
    Blueprint { groups, depth, ..tile }
}

fn one_block(block: BlockSize, max_units: usize) -> Blueprint {
    let mut side = block.get().min(MAX_SIDE);
    let unit = |side: usize| if side >= 32 { MAX_UNIT } else { MIN_UNIT };
    while (side / unit(side)).pow(2) > units(max_units) {
        side /= 2;
    }
    let unit = unit(side);
    Blueprint { block: block.get(), side, unit, blocks: 1, groups: 1, depth: MIN_DEPTH }
}

/// A power of two, as in a sum over units: CubeCL's CPU runtime has one unit per thread of the processor.
fn units(max_units: usize) -> usize {
    1 << max_units.clamp(1, MAX_UNITS).ilog2()
}

/// Shared memory of a cube that also sums norms, in bytes.
pub(crate) fn shared_bytes(block: BlockSize, max_units: usize) -> usize {
    let tiles = [select(block, max_units), select_norms(block, max_units)];
    tiles.map(|tile| tile.shared_bytes()).into_iter().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_fits_the_smallest_device() {
        for block in BlockSize::ALL {
            for tile in [select(block, 1024), select_norms(block, 1024)] {
                assert!((32..=256).contains(&tile.units()), "{tile:?}");
                assert!(tile.shared_bytes() <= 16384, "{tile:?}");
            }
            assert!(shared_bytes(block, 1024) <= 16384);
        }
    }

    #[test]
    fn any_number_of_units_gives_whole_rounds_of_a_power_of_two() {
        for block in BlockSize::ALL {
            for max_units in [1, 2, 3, 6, 7, 12, 20, 24, 48, 96, 255, 1024] {
                for tile in [select(block, max_units), select_norms(block, max_units)] {
                    assert!(tile.units() <= max_units, "{max_units}: {tile:?}");
                    assert!(tile.units().is_power_of_two(), "{max_units}: {tile:?}");
                    assert_eq!(tile.depth % tile.groups, 0, "{max_units}: {tile:?}");
                    assert_eq!(tile.block % tile.side, 0, "{max_units}: {tile:?}");
                    // A unit copies from one column of vectors only.
                    assert_eq!(tile.units() % tile.x_width(), 0, "{max_units}: {tile:?}");
                }
            }
        }
    }

    #[test]
    fn the_sizes_follow_the_table() {
        let table = [
            (64, 1024, [64, 8, 1, 64]),
            (32, 1024, [32, 8, 4, 64]),
            (16, 1024, [16, 4, 4, 64]),
            (8, 1024, [8, 4, 8, 32]),
            (32, 8, [8, 4, 1, 4]),
        ];
        for (block, max_units, want) in table {
            let tile = select(BlockSize::new(block).unwrap(), max_units);
            assert_eq!(
                [tile.side, tile.unit, tile.blocks, tile.units()],
                want,
                "blocks of {block}"
            );
        }
    }
}
