//! The numbers of the reduction, selected on the host.
//!
//! Supports every block size; refuses nothing. There is one way only and no tuning: two runs must rank
//! blocks alike.

use crate::BlockSize;

/// Most units of a cube: the least that WebGPU promises.
const MAX_UNITS: usize = 256;

/// How one block is summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Blueprint {
    /// Vectors of a block.
    pub vectors: usize,
    /// Units of a cube, a power of two.
    pub units: usize,
}

/// One unit per vector of the block, up to what the device has.
pub(crate) fn select(block: BlockSize, max_units: usize) -> Blueprint {
    let vectors = block.area() / 4;
    let limit = 1 << max_units.clamp(1, MAX_UNITS).ilog2();
    Blueprint { vectors, units: vectors.min(limit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_a_power_of_two_within_the_limits() {
        for block in BlockSize::ALL {
            for max_units in [1, 6, 64, 100, 1024] {
                let plan = select(block, max_units);
                assert!(
                    plan.units.is_power_of_two() && plan.units <= max_units.min(256),
                    "{plan:?}"
                );
                assert_eq!(plan.vectors % plan.units, 0, "{plan:?}");
            }
        }
    }
}
