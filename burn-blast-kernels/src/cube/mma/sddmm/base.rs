//! The numbers of one sampled product, picked on the host.
//!
//! Supports blocks of 32, 64 and 128 and any number of rows. A device with too little shared memory gets
//! none, and the caller goes on to the kernel for any device.

use crate::BlockSize;
use crate::cube::mma::offer::Offer;
use crate::cube::mma::tile::{MmaTile, Order};

/// Rows of the output tile: as many blocks of one column as fill it share their tile of `dy`. Guess between
/// that sharing and groups left partly empty.
const ROWS: usize = 128;
/// Cubes per multiprocessor up to which the rows of `x` and `dy` are split. Guess; to be measured.
const CUBES_PER_UNIT: usize = 2;
/// Fewest rows of a split: with fewer, writing and adding its partial sums costs more than it saves. Guess.
const MIN_ROWS_PER_SPLIT: usize = 512;
/// Units of a cube that adds partial sums.
pub(crate) const ADD_UNITS: usize = 256;
/// Most splits: each needs room for all values in f32.
const MAX_SPLITS: usize = 8;

/// How a sampled product is cut into cubes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Blueprint {
    /// Side of a block, and columns of the output tile.
    pub block: usize,
    /// The product of one cube: up to [`group`](Self::group) blocks of one block column.
    pub tile: MmaTile,
}

impl Blueprint {
    pub fn new(block: BlockSize, pipelined: bool) -> Self {
        let order = Order::ContractionOuter;
        let tile = MmaTile::new(ROWS, block.get(), order, order, pipelined);
        Self { block: block.get(), tile }
    }

    /// Most blocks of a cube.
    pub fn group(&self) -> usize {
        self.tile.rows / self.block
    }
}

/// Picks the tile, unless it needs more shared memory than there is.
pub(crate) fn select(offer: &Offer, block: BlockSize, pipelined: bool) -> Option<Blueprint> {
    let plan = Blueprint::new(block, pipelined);
    (plan.tile.shared_bytes() <= offer.shared_bytes).then_some(plan)
}

/// Into how many parts the `m` rows are split, for `groups` groups of blocks. Depends on the device, so
/// sums may differ in their last bits between devices, never between launches.
pub(crate) fn splits(offer: &Offer, m: usize, groups: usize) -> usize {
    let wanted = (CUBES_PER_UNIT * offer.compute_units).div_ceil(groups.max(1));
    wanted.min(m / MIN_ROWS_PER_SPLIT).clamp(1, MAX_SPLITS)
}

/// First slot of each group and the end of the last: runs of at most `group` slots within a column.
pub(crate) fn group_starts(col_ptr: &[u32], group: usize) -> Vec<u32> {
    let mut starts: Vec<u32> =
        col_ptr.windows(2).flat_map(|column| (column[0]..column[1]).step_by(group)).collect();
    starts.push(*col_ptr.last().expect("column pointers start with a zero"));
    starts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cube::mma::offer::tests::AMPERE;

    #[test]
    fn groups_stay_within_a_column() {
        assert_eq!(group_starts(&[0, 5, 5, 6, 8], 2), [0, 2, 4, 5, 6, 8]);
        assert_eq!(group_starts(&[0, 5, 5, 6, 8], 1), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(group_starts(&[0, 0, 0], 4), [0]);
    }

    #[test]
    fn rows_are_split_where_groups_are_few() {
        let table = [
            ("many groups", 8192, 4096, 1),
            ("few groups", 8192, 100, 3),
            ("one group", 8192, 1, 8),
            ("few rows", 1023, 1, 1),
            ("no rows", 0, 1, 1),
            ("no groups", 8192, 0, 8),
        ];
        for (name, m, groups, want) in table {
            assert_eq!(splits(&AMPERE, m, groups), want, "{name}");
        }
    }

    #[test]
    fn a_device_with_little_shared_memory_gets_none() {
        let block = BlockSize::new(64).unwrap();
        assert!(select(&AMPERE, block, true).is_some());
        assert!(select(&Offer { shared_bytes: 16_384, ..AMPERE }, block, true).is_none());
    }
}
