//! Register tiles. The loop nest: one cube owns a tile of the output and walks the kept blocks of its block column of
//! the output, which `idx` lists along the contraction.

use cubecl::prelude::*;

use crate::Activation;
use crate::cube::epilogue::activate;
use crate::cube::grid::{Grid, tile_of};
use crate::cube::load::F4;
use crate::cube::tile::unit::UnitTile;
use crate::cube::tile::unit::registers::{Blocks, Place, contract, unit_col, zero_tile};

/// `y[m, n] = f(Σ_k x[m, k] · w[k, n] + bias[n]) + residual[m, n]`, where `w` is the weight or its transpose.
///
/// `slot` maps the blocks of `idx` to value slots; without it they are in slot order.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(crate) fn spmm_kernel<F: Float, NX: Size, NY: Size>(
    x: &[Vector<F, NX>],
    values: &[Vector<F, Const<4>>],
    bias: ComptimeOption<&[F]>,
    order: &[u32],
    ptr: &[u32],
    idx: &[u32],
    slot: ComptimeOption<&[u32]>,
    residual: ComptimeOption<&[Vector<F, NY>]>,
    y: &mut [Vector<F, NY>],
    m: usize,
    k: usize,
    n: usize,
    grid: Grid,
    #[comptime] tile: UnitTile,
    #[comptime] activation: Option<Activation>,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= grid.cubes {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let unit_n = unit % comptime!(tile.units_n());
    let unit_m = unit / comptime!(tile.units_n());

    let (row_tile, col_tile) = tile_of(CUBE_POS, grid, m.div_ceil(tile.rows));
    let first_row = row_tile * tile.rows;
    let column = order[col_tile / comptime!(tile.col_tiles())] as usize;
    let inner_col = (col_tile % comptime!(tile.col_tiles())) * tile.cols;

    let mut sums = zero_tile(tile);
    let start = ptr[column] as usize;
    let blocks = Blocks { at: start, slot: start, count: ptr[column + 1] as usize - start };
    let place = Place { first_row, inner_col, unit_m, unit_n };
    let mut x_tile = Shared::<[F4]>::new_slice(comptime!(tile.x_tile()));
    let mut w_tile = Shared::<[F4]>::new_slice(comptime!(tile.w_tile()));
    contract::<F, NX>(
        x,
        values,
        idx,
        &slot,
        blocks,
        &mut x_tile,
        &mut w_tile,
        &mut sums,
        place,
        m,
        k,
        tile,
    );

    let first_col = column * tile.block + inner_col;
    #[unroll]
    for i in 0..comptime!(tile.unit_rows) {
        let row = first_row + unit_m + comptime!(i * tile.units_m());
        if row < m {
            #[unroll]
            for c in 0..comptime!(tile.quads()) {
                let sum = add_epilogue::<F, NY>(
                    &bias,
                    &residual,
                    sums[comptime!(i * tile.quads() + c)],
                    row,
                    first_col,
                    unit_n,
                    n,
                    c,
                    tile,
                    activation,
                );
                store::<F, NY>(y, sum, row, first_col, unit_n, n, c, tile);
            }
        }
    }
}

/// The results of four columns of one row, from their sums. Columns outside the output hold anything.
#[cube]
#[allow(clippy::too_many_arguments)]
fn add_epilogue<F: Float, N: Size>(
    bias: &ComptimeOption<&[F]>,
    residual: &ComptimeOption<&[Vector<F, N>]>,
    sum: F4,
    row: usize,
    first_col: usize,
    unit_n: usize,
    n: usize,
    #[comptime] c: usize,
    #[comptime] tile: UnitTile,
    #[comptime] activation: Option<Activation>,
) -> F4 {
    let mut sum = sum;
    let start = first_col + unit_col(unit_n, c, 0usize, tile);
    #[comptime]
    if let ComptimeOption::Some(bias) = bias {
        #[unroll]
        for j in 0..4usize {
            let col = first_col + unit_col(unit_n, c, j, tile);
            if col < n {
                sum.insert(j, sum.extract(j) + f32::cast_from(bias[col]));
            }
        }
    }
    sum = activate(sum, activation);
    #[comptime]
    if let ComptimeOption::Some(residual) = residual {
        let width = N::value();
        if comptime!(width == 4) {
            if start < n {
                sum += F4::cast_from(residual[(row * n + start) / 4]);
            }
        } else {
            #[unroll]
            for j in 0..4usize {
                let col = first_col + unit_col(unit_n, c, j, tile);
                if col < n {
                    let add = f32::cast_from(residual[row * n + col].extract(0usize));
                    sum.insert(j, sum.extract(j) + add);
                }
            }
        }
    }
    sum
}

/// Writes up to four columns of one row, skipping columns outside the output.
#[cube]
#[allow(clippy::too_many_arguments)]
fn store<F: Float, N: Size>(
    y: &mut [Vector<F, N>],
    sum: F4,
    row: usize,
    first_col: usize,
    unit_n: usize,
    n: usize,
    #[comptime] c: usize,
    #[comptime] tile: UnitTile,
) {
    let start = first_col + unit_col(unit_n, c, 0usize, tile);
    let width = N::value();
    if comptime!(width == 4) {
        if start < n {
            y[(row * n + start) / 4] = Vector::cast_from(sum);
        }
    } else {
        #[unroll]
        for j in 0..4usize {
            let col = first_col + unit_col(unit_n, c, j, tile);
            if col < n {
                y[row * n + col] = Vector::cast_from(sum.extract(j));
            }
        }
    }
}
