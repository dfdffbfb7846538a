//! One cube sums the squares of one block, in an order that never changes.

use cubecl::prelude::*;

use super::base::Blueprint;
use crate::cube::load::F4;

/// `norms[slot] = sqrt(Σ_ij values[slot, i, j]²)`.
#[cube(launch, address_type = "dynamic")]
pub(super) fn block_norms_kernel<F: Float>(
    values: &[Vector<F, Const<4>>],
    norms: &mut [F],
    cubes: usize,
    #[comptime] plan: Blueprint,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let start = CUBE_POS * plan.vectors;
    let mut squares = F4::zeroed();
    for at in range_stepped(UNIT_POS as usize, plan.vectors, plan.units) {
        let four = F4::cast_from(values[start + at]);
        squares = fma(four, four, squares);
    }
    let own = (squares.extract(0usize) + squares.extract(1usize))
        + (squares.extract(2usize) + squares.extract(3usize));
    let total = tree_sum(own, plan.units);
    if UNIT_POS == 0 {
        norms[CUBE_POS] = F::cast_from(total.sqrt());
    }
}

/// Sum over the units of a cube, a power of two. All units must call it; unit 0 gets the result.
#[cube]
pub(crate) fn tree_sum(own: f32, #[comptime] units: usize) -> f32 {
    let mut sums = Shared::<[f32]>::new_slice(units);
    let unit = UNIT_POS as usize;
    sums[unit] = own;
    sync_cube();
    let levels = comptime!(units.ilog2());
    #[unroll]
    for level in 0..levels {
        let half = comptime!(units >> (level + 1));
        if unit < half {
            sums[unit] += sums[unit + half];
        }
        sync_cube();
    }
    sums[0]
}
