//! The loop nest with split-K, and the second pass over its partial sums.

use cubecl::prelude::*;

use super::base::Blueprint;
use super::kernel::{product, store};
use crate::Activation;
use crate::cube::epilogue::activate;
use crate::cube::grid::{Grid, tile_of};
use crate::cube::load::F4;
use crate::cube::split_k::WHOLE;
use crate::cube::tile::mma::fragment::{Sum, Wide};

/// `y[m, n] = f(Σ_k x[m, k] · w[k, n] + bias[n]) + residual[m, n]` for whole block columns, the bare sum in
/// `partial[part, m, block]` for the others.
///
/// `parts` holds four numbers per part, as in `Work::by_range`. `k` and `n` are multiples of 8.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(crate) fn spmm_parts_kernel<F: Float>(
    x: &[Wide<F>],
    values: &[Wide<F>],
    bias: ComptimeOption<&[Vector<F, Const<2>>]>,
    parts: &[u32],
    idx: &[u32],
    slot: ComptimeOption<&[u32]>,
    residual: ComptimeOption<&[Vector<F, Const<2>>]>,
    y: &mut [Vector<F, Const<2>>],
    partial: &mut [Sum],
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
    let (row_tile, number) = tile_of(CUBE_POS, grid, m.div_ceil(tile.rows));
    let first_row = row_tile * tile.rows;
    let at = number * 4;
    let (start, end) = (parts[at + 1] as usize, parts[at + 2] as usize);
    let part = parts[at + 3];

    let sums = product::<F>(x, values, idx, &slot, first_row, start, end, m, k, blueprint);
    if part == WHOLE {
        let first_col = parts[at] as usize * blueprint.block;
        store::<F>(y, &bias, &residual, &sums, first_row, first_col, m, n, tile, activation);
    } else {
        let size = m * comptime!(blueprint.block / 2);
        let from = part as usize * size;
        let none = ComptimeOption::<&[Sum]>::new_None();
        let own = &mut partial[from..from + size];
        let bare = comptime!(None);
        store::<f32>(own, &none, &none, &sums, first_row, 0usize, m, blueprint.block, tile, bare);
    }
}

/// `y = f(Σ_part partial[part] + bias) + residual` at the split block columns, in the order of their parts.
///
/// `columns` holds three numbers per column, as in `Work::by_range`; `n` is a multiple of 8.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments, clippy::collapsible_if)]
pub(crate) fn add_parts_kernel<F: Float>(
    partial: &[F4],
    bias: ComptimeOption<&[Vector<F, Const<4>>]>,
    columns: &[u32],
    residual: ComptimeOption<&[Vector<F, Const<4>>]>,
    y: &mut [Vector<F, Const<4>>],
    m: usize,
    n: usize,
    count: usize,
    #[comptime] block: usize,
    #[comptime] activation: Option<Activation>,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    let width = comptime!(block / 4);
    let size = m * width;
    if at < count * size {
        let column = at / size * 3;
        let inner = at % size;
        let col = columns[column] as usize * block + inner % width * 4;
        if col < n {
            let first = columns[column + 1] as usize;
            let mut sum = F4::zeroed();
            for part in first..first + columns[column + 2] as usize {
                sum += partial[part * size + inner];
            }
            #[comptime]
            if let ComptimeOption::Some(bias) = bias {
                sum += F4::cast_from(bias[col / 4]);
            }
            let at = (inner / width * n + col) / 4;
            let mut result = activate(sum, activation);
            #[comptime]
            if let ComptimeOption::Some(residual) = residual {
                result += F4::cast_from(residual[at]);
            }
            y[at] = Vector::cast_from(result);
        }
    }
}
