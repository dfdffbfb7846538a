//! The loop nest: one cube owns a tile of the output and walks the kept blocks of its block column of the output, as
//! the kernel on register tiles does.

use cubecl::cmma::Matrix;
use cubecl::prelude::*;

use super::base::Blueprint;
use crate::Activation;
use crate::cube::epilogue::activate;
use crate::cube::grid::{Grid, tile_of};
use crate::cube::load::F4;
use crate::cube::tile::cmma::fragment::{
    Four, Source, fill, hand_over, handed, multiply, plane_col, plane_row, unit_col, zero_sums,
};
use crate::cube::tile::cmma::{CmmaTile, STAGES, WIDTH};

/// `y[m, n] = f(Σ_k x[m, k] · w[k, n] + bias[n]) + residual[m, n]`, where `w` is the weight or its transpose.
///
/// `slot` maps the blocks of `idx` to value slots; without it they are in slot order. `k` and `n` are
/// multiples of 4.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(crate) fn spmm_cmma_kernel<F: Float, E: Float>(
    x: &[Four<F>],
    values: &[Four<F>],
    bias: ComptimeOption<&[Four<F>]>,
    order: &[u32],
    ptr: &[u32],
    idx: &[u32],
    slot: ComptimeOption<&[u32]>,
    residual: ComptimeOption<&[Four<F>]>,
    y: &mut [Four<F>],
    m: usize,
    k: usize,
    n: usize,
    grid: Grid,
    #[comptime] blueprint: Blueprint,
    #[comptime] activation: Option<Activation>,
    #[define(F)] _dtype: ElemType,
    #[define(E)] _element: ElemType,
) {
    if CUBE_POS >= grid.cubes {
        terminate!();
    }
    let tile = comptime!(blueprint.tile);
    let (row_tile, col_tile) = tile_of(CUBE_POS, grid, m.div_ceil(tile.rows));
    let first_row = row_tile * tile.rows;
    let column = order[col_tile / comptime!(blueprint.col_tiles())] as usize;
    let inner_col = (col_tile % comptime!(blueprint.col_tiles())) * tile.cols;

    let mut x_tile = Shared::<[Four<E>]>::new_slice(comptime!(STAGES * tile.a.vectors()));
    let mut w_tile = Shared::<[Four<E>]>::new_slice(comptime!(STAGES * tile.b.vectors()));
    let mut sums = zero_sums(tile);

    let start = ptr[column] as usize;
    let per_block = comptime!(blueprint.block / tile.depth);
    let steps = (ptr[column + 1] as usize - start) * per_block;
    for step in 0..steps + 1 {
        // Fills one stage while the one before is read.
        if step < steps {
            let at = start + step / per_block;
            let first_k = idx[at] as usize * blueprint.block + step % per_block * tile.depth;
            #[comptime]
            let block_slot = match &slot {
                ComptimeOption::Some(slot) => slot[at] as usize,
                ComptimeOption::None => at,
            };
            let inner = step % per_block * tile.depth;
            let rows =
                Source { first_row, col: first_k + unit_col(comptime!(tile.a)), rows: m, cols: k };
            fill::<F, E>(x, &mut x_tile, rows, step % STAGES, comptime!(tile.a), tile);
            let block = inside_block(block_slot, inner, inner_col, blueprint);
            fill::<F, E>(values, &mut w_tile, block, step % STAGES, comptime!(tile.b), tile);
        }
        if step > 0 {
            multiply::<E>(&x_tile, &w_tile, &mut sums, (step - 1) % STAGES, tile);
        }
        sync_cube();
    }
    let first_col = column * blueprint.block + inner_col;
    store::<F>(y, &bias, &residual, &sums, first_row, first_col, m, n, tile, activation);
}

/// `[depth, cols]` of a block, or `[cols, depth]` when transposed.
#[cube]
fn inside_block(
    block_slot: usize,
    inner: usize,
    inner_col: usize,
    #[comptime] blueprint: Blueprint,
) -> Source {
    let (row, col) =
        if comptime!(blueprint.transposed) { (inner_col, inner) } else { (inner, inner_col) };
    Source {
        first_row: block_slot * blueprint.block + row,
        col: col + unit_col(comptime!(blueprint.tile.b)),
        rows: (block_slot + 1) * blueprint.block,
        cols: blueprint.block.runtime(),
    }
}

/// Applies the epilogue to the sums and writes the results that are inside the output.
#[cube]
#[allow(clippy::too_many_arguments)]
fn store<F: Float>(
    y: &mut [Four<F>],
    bias: &ComptimeOption<&[Four<F>]>,
    residual: &ComptimeOption<&[Four<F>]>,
    sums: &Sequence<Matrix<f32>>,
    first_row: usize,
    first_col: usize,
    m: usize,
    n: usize,
    #[comptime] tile: CmmaTile,
    #[comptime] activation: Option<Activation>,
) {
    let mut handover = Shared::<[F4]>::new_slice(comptime!(tile.planes() * tile.handover()));
    #[unroll]
    for i in 0..comptime!(tile.tiles_m()) {
        #[unroll]
        for j in 0..comptime!(tile.tiles_n()) {
            hand_over(sums.index(comptime!(i * tile.tiles_n() + j)), &mut handover, tile);
            for round in 0..comptime!(tile.handover().div_ceil(tile.plane)) {
                let (from, inner_row, inner_col) = handed(round, tile);
                let row = first_row + plane_row(tile) + inner_row + comptime!(i * tile.matrix.side);
                let col = first_col + plane_col(tile) + inner_col + comptime!(j * tile.matrix.side);
                if inner_row < tile.matrix.side && row < m && col < n {
                    let mut sum = handover[from];
                    #[comptime]
                    if let ComptimeOption::Some(bias) = bias {
                        sum += F4::cast_from(bias[col / WIDTH]);
                    }
                    let at = (row * n + col) / WIDTH;
                    let mut result = activate(sum, activation);
                    #[comptime]
                    if let ComptimeOption::Some(residual) = residual {
                        result += F4::cast_from(residual[at]);
                    }
                    y[at] = Vector::cast_from(result);
                }
            }
        }
    }
}
