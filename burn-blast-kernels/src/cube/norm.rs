//! Frobenius norm of each kept block.
//!
//! Supports every block size; refuses nothing. There is one way only and no tuning: two runs must rank blocks alike.

use cubecl::prelude::*;

use super::context::Context;
use super::load::{F4, tree_sum};
use crate::BlockSize;

/// Most units of a cube: the least that WebGPU promises.
const MAX_UNITS: usize = 256;

/// How one block is summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Blueprint {
    /// Vectors of a block.
    pub vectors: usize,
    /// Units of a cube, a power of two.
    pub units: usize,
}

/// One unit per vector of the block, up to what the device has.
pub(super) fn select(block: BlockSize, max_units: usize) -> Blueprint {
    let vectors = block.area() / 4;
    let limit = 1 << max_units.clamp(1, MAX_UNITS).ilog2();
    Blueprint { vectors, units: vectors.min(limit) }
}

/// `norms[slot] = sqrt(Σ_ij values[slot, i, j]²)`: one cube sums the squares of one block, in an order that never
/// changes.
#[cube(launch, address_type = "dynamic")]
pub(super) fn block_norms_kernel<F: Float>(
    values: &[Vector<F, Const<4>>],
    norms: &mut [F],
    cubes: usize,
    #[comptime] blueprint: Blueprint,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let start = CUBE_POS * blueprint.vectors;
    let mut squares = F4::zeroed();
    for at in range_stepped(UNIT_POS as usize, blueprint.vectors, blueprint.units) {
        let four = F4::cast_from(values[start + at]);
        squares = fma(four, four, squares);
    }
    let own = (squares.extract(0usize) + squares.extract(1usize))
        + (squares.extract(2usize) + squares.extract(3usize));
    let total = tree_sum(own, blueprint.units);
    if UNIT_POS == 0 {
        norms[CUBE_POS] = F::cast_from(total.sqrt());
    }
}

/// Writes the norm of each block of `values`, of which there is one at least.
pub(super) fn launch(ctx: &Context, blueprint: Blueprint, values: BufferArg, norms: BufferArg) {
    let cubes = ctx.pattern.nnz();
    block_norms_kernel::launch(
        ctx.client,
        ctx.cubes(cubes),
        CubeDim::new_1d(blueprint.units as u32),
        AddressType::from_len(values.len()),
        values,
        norms,
        cubes,
        blueprint,
        ctx.dtype,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_a_power_of_two_within_the_limits() {
        for block in BlockSize::ALL {
            for max_units in [1, 6, 64, 100, 1024] {
                let blueprint = select(block, max_units);
                let units = blueprint.units;
                assert!(units.is_power_of_two() && units <= max_units.min(256), "{blueprint:?}");
                assert_eq!(blueprint.vectors % units, 0, "{blueprint:?}");
            }
        }
    }
}
