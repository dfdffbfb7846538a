//! One cube sums the squares of one block, in an order that never changes.

use cubecl::prelude::*;

use super::base::Blueprint;
use crate::cube::load::{F4, tree_sum};

/// `norms[slot] = sqrt(Σ_ij values[slot, i, j]²)`.
#[cube(launch, address_type = "dynamic")]
pub(crate) fn block_norms_kernel<F: Float>(
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
