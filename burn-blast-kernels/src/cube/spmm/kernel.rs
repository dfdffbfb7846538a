//! The loop nest: one cube owns a tile of the output and walks the kept blocks of its line.
//!
//! A *line* is a block column of `w`, or a block row when transposed; `idx` lists its kept blocks along
//! the contraction.

use cubecl::prelude::*;

use super::base::Blueprint;
use crate::Activation;
use crate::cube::epilogue::activate;
use crate::cube::load::{F4, load4};

/// `y[m, n] = f(Σ_k x[m, k] · w[k, n] + bias[n]) + residual[m, n]`, where `w` is the weight or its transpose.
///
/// `slot` maps the blocks of `idx` to value slots; without it they are in slot order.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(super) fn spmm_kernel<F: Float, NX: Size, NY: Size>(
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
    cubes: usize,
    #[comptime] tile: Blueprint,
    #[comptime] activation: Option<Activation>,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let unit_n = unit % comptime!(tile.units_n());
    let unit_m = unit / comptime!(tile.units_n());

    // Row tiles of the same line are neighbours, so that they find its values in the cache.
    let row_tiles = m.div_ceil(tile.rows);
    let first_row = (CUBE_POS % row_tiles) * tile.rows;
    let column = CUBE_POS / row_tiles;
    let line = order[column / comptime!(tile.parts())] as usize;
    let part = (column % comptime!(tile.parts())) * tile.cols;

    let mut x_tile = Shared::<[F4]>::new_slice(comptime!(tile.x_tile()));
    let mut w_tile = Shared::<[F4]>::new_slice(comptime!(tile.w_tile()));
    let mut sums = Array::<F4>::new(4usize);
    #[unroll]
    for i in 0..4usize {
        sums[i] = F4::zeroed();
    }

    let start = ptr[line] as usize;
    let end = ptr[line + 1] as usize;
    for at in start..end {
        let block_k = idx[at] as usize * tile.block;
        #[comptime]
        let block_slot = match &slot {
            ComptimeOption::Some(slot) => slot[at] as usize,
            ComptimeOption::None => at,
        };
        for step in 0..comptime!(tile.block / tile.depth) {
            let inner_k = step * tile.depth;
            fill_x::<F, NX>(x, &mut x_tile, first_row, block_k + inner_k, m, k, tile);
            fill_w::<F>(values, &mut w_tile, block_slot, inner_k, part, tile);
            sync_cube();
            multiply(&x_tile, &w_tile, &mut sums, unit_m, unit_n, tile);
            sync_cube();
        }
    }

    let first_col = line * tile.block + part;
    #[unroll]
    for i in 0..4usize {
        let row = first_row + unit_m + i * comptime!(tile.units_m());
        if row < m {
            let sum = finish::<F, NY>(
                &bias, &residual, sums[i], row, first_col, unit_n, n, tile, activation,
            );
            store::<F, NY>(y, sum, row, first_col, unit_n, n, tile);
        }
    }
}

/// Copies `[rows, depth]` of `x`.
#[cube]
pub(in crate::cube) fn fill_x<F: Float, N: Size>(
    x: &[Vector<F, N>],
    x_tile: &mut Shared<[F4]>,
    first_row: usize,
    first_k: usize,
    m: usize,
    k: usize,
    #[comptime] tile: Blueprint,
) {
    let width = comptime!(tile.depth / 4);
    for at in range_stepped(
        UNIT_POS as usize,
        comptime!(tile.rows * tile.depth / 4),
        comptime!(tile.units()),
    ) {
        let row = at / width;
        let quad = at % width;
        x_tile[row * comptime!(tile.x_pitch()) + quad] =
            load4::<F, N>(x, first_row + row, first_k + quad * 4, m, k);
    }
}

/// Copies `[depth, cols]` of a block, or `[cols, depth]` when transposed: rows of a block stay rows, so
/// that both directions read memory in order.
#[cube]
pub(in crate::cube) fn fill_w<F: Float>(
    values: &[Vector<F, Const<4>>],
    w_tile: &mut Shared<[F4]>,
    block_slot: usize,
    inner_k: usize,
    part: usize,
    #[comptime] tile: Blueprint,
) {
    let width = comptime!(if tile.transposed { tile.depth / 4 } else { tile.cols / 4 });
    let (first_row, first_col) =
        if comptime!(tile.transposed) { (part, inner_k) } else { (inner_k, part) };
    let origin = (block_slot * tile.block + first_row) * tile.block + first_col;
    for at in range_stepped(
        UNIT_POS as usize,
        comptime!(tile.cols * tile.depth / 4),
        comptime!(tile.units()),
    ) {
        let row = at / width;
        let quad = at % width;
        w_tile[row * comptime!(tile.w_pitch()) + quad] =
            F4::cast_from(values[(origin + row * tile.block) / 4 + quad]);
    }
}

/// Adds one step to the 4 x 4 sums of a unit. Rows of a unit lie `units_m` apart, columns `units_n` apart
/// when transposed, so that the units of a plane read neighbouring vectors.
#[cube]
pub(in crate::cube) fn multiply(
    x_tile: &Shared<[F4]>,
    w_tile: &Shared<[F4]>,
    sums: &mut Array<F4>,
    unit_m: usize,
    unit_n: usize,
    #[comptime] tile: Blueprint,
) {
    for quad in 0..comptime!(tile.depth / 4) {
        // w[j] holds four columns of contraction row `4 quad + j`.
        let mut w = Array::<F4>::new(4usize);
        if comptime!(tile.transposed) {
            let mut columns = Array::<F4>::new(4usize);
            #[unroll]
            for j in 0..4usize {
                let row = unit_n + j * comptime!(tile.units_n());
                columns[j] = w_tile[row * comptime!(tile.w_pitch()) + quad];
            }
            #[unroll]
            for j in 0..4usize {
                let mut line = F4::zeroed();
                #[unroll]
                for c in 0..4usize {
                    line.insert(c, columns[c].extract(j));
                }
                w[j] = line;
            }
        } else {
            #[unroll]
            for j in 0..4usize {
                w[j] = w_tile[(quad * 4 + j) * comptime!(tile.w_pitch()) + unit_n];
            }
        }
        #[unroll]
        for i in 0..4usize {
            let row = unit_m + i * comptime!(tile.units_m());
            let x = x_tile[row * comptime!(tile.x_pitch()) + quad];
            #[unroll]
            for j in 0..4usize {
                sums[i] = fma(F4::new(x.extract(j)), w[j], sums[i]);
            }
        }
    }
}

/// Turns the sums of four columns of one row into results. Columns outside the output hold anything.
#[cube]
#[allow(clippy::too_many_arguments)]
fn finish<F: Float, N: Size>(
    bias: &ComptimeOption<&[F]>,
    residual: &ComptimeOption<&[Vector<F, N>]>,
    sum: F4,
    row: usize,
    first_col: usize,
    unit_n: usize,
    n: usize,
    #[comptime] tile: Blueprint,
    #[comptime] activation: Option<Activation>,
) -> F4 {
    let mut sum = sum;
    let start = first_col + unit_n * comptime!(if tile.transposed { 1usize } else { 4usize });
    let stride = comptime!(if tile.transposed { tile.units_n() } else { 1usize });
    #[comptime]
    if let ComptimeOption::Some(bias) = bias {
        #[unroll]
        for j in 0..4usize {
            let col = start + j * stride;
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
                let col = start + j * stride;
                if col < n {
                    let add = f32::cast_from(residual[row * n + col].extract(0usize));
                    sum.insert(j, sum.extract(j) + add);
                }
            }
        }
    }
    sum
}

/// Writes the four columns of one row that lie inside the output.
#[cube]
fn store<F: Float, N: Size>(
    y: &mut [Vector<F, N>],
    sum: F4,
    row: usize,
    first_col: usize,
    unit_n: usize,
    n: usize,
    #[comptime] tile: Blueprint,
) {
    let start = first_col + unit_n * comptime!(if tile.transposed { 1usize } else { 4usize });
    let stride = comptime!(if tile.transposed { tile.units_n() } else { 1usize });
    let width = N::value();
    if comptime!(width == 4) {
        if start < n {
            y[(row * n + start) / 4] = Vector::cast_from(sum);
        }
    } else {
        #[unroll]
        for j in 0..4usize {
            let col = start + j * stride;
            if col < n {
                y[row * n + col] = Vector::cast_from(sum.extract(j));
            }
        }
    }
}
