//! The loop nest: one cube owns a few blocks of one block column, or a part of one block, and walks the rows of `x` and
//! `dy`.

use cubecl::cmma::Matrix;
use cubecl::prelude::*;

use super::base::Blueprint;
use crate::cube::load::{F4, Sizes};
use crate::cube::tile::cmma::fragment::{
    Four, Source, fill, hand_over, handed, multiply, plane_col, plane_row, unit_col, zero_sums,
};
use crate::cube::tile::cmma::{STAGES, WIDTH};

/// Which blocks a cube owns.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Group {
    /// First slot of the group.
    first: usize,
    /// Blocks of the group.
    count: usize,
    /// Row and column inside a block at which the tile starts; zero unless a block has several tiles.
    inner_row: usize,
    inner_col: usize,
}

/// `dw[slot, i, j] = Σ_m x[m, row·b + i] · dy[m, col·b + j]`, zero outside the weight. `k` and `n` are multiples
/// of 4.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(crate) fn sddmm_cmma_kernel<F: Float, E: Float>(
    x: &[Four<F>],
    dy: &[Four<F>],
    row_of_slot: &[u32],
    col_of_slot: &[u32],
    group_starts: &[u32],
    dw: &mut [Four<F>],
    sizes: Sizes,
    cubes: usize,
    #[comptime] blueprint: Blueprint,
    #[define(F)] _dtype: ElemType,
    #[define(E)] _element: ElemType,
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let tile = comptime!(blueprint.tile);
    let side = comptime!(blueprint.side_tiles());
    let group = CUBE_POS / comptime!(side * side);
    let inner = CUBE_POS % comptime!(side * side);
    let first = group_starts[group] as usize;
    let own = Group {
        first,
        count: group_starts[group + 1] as usize - first,
        inner_row: inner / side * tile.rows,
        inner_col: inner % side * tile.cols,
    };
    let first_col = col_of_slot[first] as usize * blueprint.block + own.inner_col;
    // A unit copies from one block of its group only, always the same columns of it.
    let quad = unit_col(comptime!(tile.a));
    let mut x_col = sizes.k;
    if quad / blueprint.block < own.count {
        let row = row_of_slot[first + quad / blueprint.block] as usize;
        x_col = row * blueprint.block + own.inner_row + quad % blueprint.block;
    }
    let dy_col = first_col + unit_col(comptime!(tile.b));

    let mut x_tile = Shared::<[Four<E>]>::new_slice(comptime!(STAGES * tile.a.vectors()));
    let mut dy_tile = Shared::<[Four<E>]>::new_slice(comptime!(STAGES * tile.b.vectors()));
    let mut sums = zero_sums(tile);
    let steps = sizes.m.div_ceil(tile.depth);
    for step in 0..steps + 1 {
        // Fills one stage while the one before is read.
        if step < steps {
            let (first_row, rows, stage) = (step * tile.depth, sizes.m, step % STAGES);
            let of_x = Source { first_row, col: x_col, rows, cols: sizes.k };
            fill::<F, E>(x, &mut x_tile, of_x, stage, comptime!(tile.a), tile);
            let of_dy = Source { first_row, col: dy_col, rows, cols: sizes.n };
            fill::<F, E>(dy, &mut dy_tile, of_dy, stage, comptime!(tile.b), tile);
        }
        if step > 0 {
            multiply::<E>(&x_tile, &dy_tile, &mut sums, (step - 1) % STAGES, tile);
        }
        sync_cube();
    }
    store::<F>(dw, row_of_slot, &sums, own, first_col, sizes, blueprint);
}

/// Writes the blocks of the group; zeros outside the weight, where a padded zero may have met infinity.
#[cube]
fn store<F: Float>(
    dw: &mut [Four<F>],
    row_of_slot: &[u32],
    sums: &Sequence<Matrix<f32>>,
    own: Group,
    first_col: usize,
    sizes: Sizes,
    #[comptime] blueprint: Blueprint,
) {
    let tile = comptime!(blueprint.tile);
    let mut handover = Shared::<[F4]>::new_slice(comptime!(tile.planes() * tile.handover()));
    #[unroll]
    for i in 0..comptime!(tile.tiles_m()) {
        #[unroll]
        for j in 0..comptime!(tile.tiles_n()) {
            hand_over(sums.index(comptime!(i * tile.tiles_n() + j)), &mut handover, tile);
            for round in 0..comptime!(tile.handover().div_ceil(tile.plane)) {
                let (at, inner_row, inner_col) = handed(round, tile);
                let row = plane_row(tile) + inner_row + comptime!(i * tile.matrix.side);
                let col = plane_col(tile) + inner_col + comptime!(j * tile.matrix.side);
                let block = row / blueprint.block;
                if inner_row < tile.matrix.side && block < own.count {
                    let slot = own.first + block;
                    let inner = own.inner_row + row % blueprint.block;
                    let k = row_of_slot[slot] as usize * blueprint.block + inner;
                    let mut cells = F4::zeroed();
                    if k < sizes.k && first_col + col < sizes.n {
                        cells = handover[at];
                    }
                    let origin = (slot * blueprint.block + inner) * blueprint.block + own.inner_col;
                    dw[(origin + col) / WIDTH] = Vector::cast_from(cells);
                }
            }
        }
    }
}
