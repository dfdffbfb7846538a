//! The loop nest: one cube owns a tile of one block and walks all rows of `x` and `dy`.

use cubecl::prelude::*;

use super::base::Blueprint;
use crate::cube::load::{F4, Sizes, load4, tree_sum, zero_sums};

/// `dw[slot, i, j] = Σ_m x[m, row·b + i] · dy[m, col·b + j]`, zero outside the weight.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(crate) fn sddmm_kernel<F: Float, NX: Size, NY: Size>(
    x: &[Vector<F, NX>],
    dy: &[Vector<F, NY>],
    row_of_slot: &[u32],
    col_of_slot: &[u32],
    dw: &mut [Vector<F, Const<4>>],
    sizes: Sizes,
    cubes: usize,
    #[comptime] tile: Blueprint,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let side = comptime!(tile.side_tiles());
    let slot = CUBE_POS / comptime!(side * side);
    let inner = CUBE_POS % comptime!(side * side);
    let inner_row = (inner / side) * tile.side;
    let inner_col = (inner % side) * tile.side;
    let first_row = row_of_slot[slot] as usize * tile.block + inner_row;
    let first_col = col_of_slot[slot] as usize * tile.block + inner_col;

    let sums = product::<F, NX, NY>(x, dy, first_row, first_col, sizes, tile);

    let unit = UNIT_POS as usize;
    if unit < comptime!(tile.writers()) {
        let row = (unit / comptime!(tile.register_tiles())) * 4;
        let col = (unit % comptime!(tile.register_tiles())) * 4;
        let origin = (slot * tile.block + inner_row + row) * tile.block + inner_col + col;
        #[unroll]
        for i in 0..4usize {
            let cells = inside(sums[i], first_row + row + i, first_col + col, sizes);
            dw[(origin + i * tile.block) / 4] = Vector::cast_from(cells);
        }
    }
}

/// `norms[row, col] = sqrt(Σ_ij (Σ_m x[m, row·b + i] · dy[m, col·b + j])²)`.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(crate) fn grad_block_norms_kernel<F: Float, NX: Size, NY: Size>(
    x: &[Vector<F, NX>],
    dy: &[Vector<F, NY>],
    norms: &mut [F],
    sizes: Sizes,
    block_cols: usize,
    cubes: usize,
    #[comptime] tile: Blueprint,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let side = comptime!(tile.side_tiles());
    let block_row = (CUBE_POS / block_cols) * tile.block;
    let block_col = (CUBE_POS % block_cols) * tile.block;
    let unit = UNIT_POS as usize;
    let row = (unit / comptime!(tile.register_tiles())) * 4;
    let col = (unit % comptime!(tile.register_tiles())) * 4;

    let mut squares = 0.0f32;
    for inner in 0..comptime!(side * side) {
        let first_row = block_row + (inner / side) * tile.side;
        let first_col = block_col + (inner % side) * tile.side;
        let sums = product::<F, NX, NY>(x, dy, first_row, first_col, sizes, tile);
        if unit < comptime!(tile.writers()) {
            #[unroll]
            for i in 0..4usize {
                let cells = inside(sums[i], first_row + row + i, first_col + col, sizes);
                #[unroll]
                for j in 0..4usize {
                    squares = fma(cells.extract(j), cells.extract(j), squares);
                }
            }
        }
    }
    let total = tree_sum(squares, comptime!(tile.units()));
    if UNIT_POS == 0 {
        norms[CUBE_POS] = F::cast_from(total.sqrt());
    }
}

/// The 4 x 4 sums of a unit. Only the first `writers` units hold the full ones on return.
#[cube]
fn product<F: Float, NX: Size, NY: Size>(
    x: &[Vector<F, NX>],
    dy: &[Vector<F, NY>],
    first_row: usize,
    first_col: usize,
    sizes: Sizes,
    #[comptime] tile: Blueprint,
) -> Array<F4> {
    let mut x_tile = Shared::<[F4]>::new_slice(comptime!(tile.tile()));
    let mut dy_tile = Shared::<[F4]>::new_slice(comptime!(tile.tile()));
    let mut sums = zero_sums();
    let width = comptime!(tile.side / 4);
    let own = UNIT_POS as usize % comptime!(tile.writers());
    let group = UNIT_POS as usize / comptime!(tile.writers());
    let own_row = own / comptime!(tile.register_tiles());
    let own_col = own % comptime!(tile.register_tiles());

    for step in 0..sizes.m.div_ceil(tile.depth) {
        let first_m = step * tile.depth;
        for at in range_stepped(UNIT_POS as usize, comptime!(tile.tile()), comptime!(tile.units()))
        {
            let row = first_m + at / width;
            let quad = (at % width) * 4;
            x_tile[at] = load4::<F, NX>(x, row, first_row + quad, sizes.m, sizes.k);
            dy_tile[at] = load4::<F, NY>(dy, row, first_col + quad, sizes.m, sizes.n);
        }
        sync_cube();
        for round in 0..comptime!(tile.depth / tile.groups) {
            let row = (round * tile.groups + group) * width;
            let x_four = x_tile[row + own_row];
            let dy_four = dy_tile[row + own_col];
            #[unroll]
            for i in 0..4usize {
                sums[i] = fma(F4::new(x_four.extract(i)), dy_four, sums[i]);
            }
        }
        sync_cube();
    }
    if comptime!(tile.groups > 1) {
        gather_groups(&mut sums, tile);
    }
    sums
}

/// Adds the sums of the other groups to the sums of the first, in a fixed order.
#[cube]
fn gather_groups(sums: &mut Array<F4>, #[comptime] tile: Blueprint) {
    let mut handover = Shared::<[F4]>::new_slice(comptime!(tile.handover()));
    let unit = UNIT_POS as usize;
    #[unroll]
    for i in 0..4usize {
        handover[unit * 4 + i] = sums[i];
    }
    sync_cube();
    if unit < comptime!(tile.writers()) {
        for group in 1..tile.groups {
            let from = (group * comptime!(tile.writers()) + unit) * 4;
            #[unroll]
            for i in 0..4usize {
                sums[i] += handover[from + i];
            }
        }
    }
}

/// Clears the cells outside the weight: a zero there may have met NaN or infinity in the other tensor.
#[cube]
fn inside(cells: F4, row: usize, col: usize, sizes: Sizes) -> F4 {
    let mut kept = F4::zeroed();
    #[unroll]
    for j in 0..4usize {
        if row < sizes.k && col + j < sizes.n {
            kept.insert(j, cells.extract(j));
        }
    }
    kept
}
