//! The loop nest: one cube owns a tile of the output and walks the kept blocks of its block column of the output, which
//! `idx` lists along the contraction. Its copies run a few stages ahead.
//!
//! A block keeps its memory order in both directions: the transposed product reads it with the other form of
//! `ldmatrix`.

use cubecl::prelude::*;

use super::base::Blueprint;
use crate::Activation;
use crate::cube::epilogue::activate;
use crate::cube::grid::{Grid, tile_of};
use crate::cube::tile::mma::fragment::{
    Sum, Wide, commit, copy, fill_x, multiply, plane_col, plane_row, wait, zero_sums,
};
use crate::cube::tile::mma::{INSTRUCTION_COLS, INSTRUCTION_ROWS, MmaTile, PLANE, WIDE, place};

/// `y[m, n] = f(Σ_k x[m, k] · w[k, n] + bias[n]) + residual[m, n]`, where `w` is the weight or its transpose.
///
/// `slot` maps the blocks of `idx` to value slots; without it they are in slot order. `k` and `n` are
/// multiples of 8.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(crate) fn spmm_mma_kernel<F: Float>(
    x: &[Wide<F>],
    values: &[Wide<F>],
    bias: ComptimeOption<&[Vector<F, Const<2>>]>,
    order: &[u32],
    ptr: &[u32],
    idx: &[u32],
    slot: ComptimeOption<&[u32]>,
    residual: ComptimeOption<&[Vector<F, Const<2>>]>,
    y: &mut [Vector<F, Const<2>>],
    m: usize,
    k: usize,
    n: usize,
    grid: Grid,
    #[comptime] blueprint: Blueprint,
    #[comptime] activation: Option<Activation>,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= grid.cubes {
        terminate!();
    }
    let tile = comptime!(blueprint.tile);
    let (row_tile, col_tile) = tile_of(CUBE_POS, grid, m.div_ceil(tile.rows));
    let first_row = row_tile * tile.rows;
    let column = order[col_tile] as usize;

    let (start, end) = (ptr[column] as usize, ptr[column + 1] as usize);
    let sums = product::<F>(x, values, idx, &slot, first_row, start, end, m, k, blueprint);
    let first_col = column * blueprint.block;
    store::<F>(y, &bias, &residual, &sums, first_row, first_col, m, n, tile, activation);
}

/// Sums over the blocks `start..end` of `idx`, for the rows from `first_row` on.
#[cube]
#[allow(clippy::too_many_arguments)]
pub(crate) fn product<F: Float>(
    x: &[Wide<F>],
    values: &[Wide<F>],
    idx: &[u32],
    slot: &ComptimeOption<&[u32]>,
    first_row: usize,
    start: usize,
    end: usize,
    m: usize,
    k: usize,
    #[comptime] blueprint: Blueprint,
) -> Sequence<Array<Sum>> {
    let tile = comptime!(blueprint.tile);
    let mut x_tile = Shared::<[Wide<F>]>::new_slice(comptime!(tile.stages() * tile.a.vectors()));
    let mut w_tile = Shared::<[Wide<F>]>::new_slice(comptime!(tile.stages() * tile.b.vectors()));
    let mut sums = zero_sums(tile);

    let per_block = comptime!(blueprint.block / tile.depth());
    let steps = (end - start) * per_block;
    let ahead = comptime!(tile.stages() - 1);
    for step in 0..ahead {
        if step < steps {
            let at = start + step / per_block;
            let first_k = idx[at] as usize * blueprint.block;
            let block_slot = slot_of(slot, at);
            let inner = step % per_block;
            fill_x::<F>(x, &mut x_tile, first_row, first_k, inner, step, m, k, tile);
            fill_w::<F>(values, &mut w_tile, block_slot, inner, step, blueprint);
        }
        commit(tile);
    }
    for step in 0..steps {
        wait(tile);
        let next = step + ahead;
        if next < steps {
            let at = start + next / per_block;
            let first_k = idx[at] as usize * blueprint.block;
            let block_slot = slot_of(slot, at);
            let inner = next % per_block;
            let stage = next % comptime!(tile.stages());
            fill_x::<F>(x, &mut x_tile, first_row, first_k, inner, stage, m, k, tile);
            fill_w::<F>(values, &mut w_tile, block_slot, inner, stage, blueprint);
        }
        commit(tile);
        multiply::<F>(&x_tile, &w_tile, &mut sums, step % comptime!(tile.stages()), tile);
    }
    sums
}

/// Value slot of the block at `at`.
#[cube]
fn slot_of(slot: &ComptimeOption<&[u32]>, at: usize) -> usize {
    #[comptime]
    match slot {
        ComptimeOption::Some(slot) => slot[at] as usize,
        ComptimeOption::None => at,
    }
}

/// Copies `[depth, cols]` of a block, or `[cols, depth]` when transposed.
#[cube]
fn fill_w<F: Float>(
    values: &[Wide<F>],
    w_tile: &mut Shared<[Wide<F>]>,
    block_slot: usize,
    inner: usize,
    stage: usize,
    #[comptime] blueprint: Blueprint,
) {
    let tile = comptime!(blueprint.tile);
    let width = comptime!(tile.b.line);
    let vectors = comptime!(tile.b.lines * tile.b.line);
    let (first_row, first_col) = if comptime!(blueprint.transposed) {
        (0usize.runtime(), inner * comptime!(tile.depth()))
    } else {
        (inner * comptime!(tile.depth()), 0usize.runtime())
    };
    let origin = (block_slot * blueprint.block + first_row) * blueprint.block + first_col;
    #[unroll]
    for round in 0..comptime!(vectors.div_ceil(tile.units())) {
        let at = UNIT_POS as usize + comptime!(round * tile.units());
        if comptime!(vectors.is_multiple_of(tile.units())) || at < vectors {
            let row = at / width;
            let quad = at % width;
            let place = stage * comptime!(tile.b.vectors()) + place(row, quad, tile.b);
            let from = (origin + row * blueprint.block) / WIDE + quad;
            copy::<F>(values, from, true.runtime(), w_tile, place, tile.pipelined);
        }
    }
}

/// Applies the epilogue to the sums and writes the results that are inside the output.
// The outer `if` is decided when the kernel is made, the inner one when it runs.
#[cube]
#[allow(clippy::too_many_arguments, clippy::collapsible_if)]
pub(crate) fn store<F: Float>(
    y: &mut [Vector<F, Const<2>>],
    bias: &ComptimeOption<&[Vector<F, Const<2>>]>,
    residual: &ComptimeOption<&[Vector<F, Const<2>>]>,
    sums: &Sequence<Array<Sum>>,
    first_row: usize,
    first_col: usize,
    m: usize,
    n: usize,
    #[comptime] tile: MmaTile,
    #[comptime] activation: Option<Activation>,
) {
    let lane = UNIT_POS as usize % PLANE;
    let row = first_row + plane_row(tile) + lane / 4;
    let col = first_col + plane_col(tile) + lane % 4 * 2;
    #[unroll]
    for j in 0..comptime!(tile.tiles_n()) {
        let col = col + comptime!(j * INSTRUCTION_COLS);
        let mut add = Sum::zeroed();
        #[comptime]
        if let ComptimeOption::Some(bias) = bias {
            if col < n {
                add = Sum::cast_from(bias[col / 2]);
            }
        }
        #[unroll]
        for i in 0..comptime!(tile.tiles_m()) {
            let sum = sums.index(comptime!(i * tile.tiles_n() + j));
            #[unroll]
            for half in 0..2usize {
                let row = row + comptime!(i * INSTRUCTION_ROWS + half * 8);
                if row < m && col < n {
                    let at = (row * n + col) / 2;
                    let mut result = activate(sum[half] + add, activation);
                    #[comptime]
                    if let ComptimeOption::Some(residual) = residual {
                        result += Sum::cast_from(residual[at]);
                    }
                    y[at] = Vector::cast_from(result);
                }
            }
        }
    }
}
