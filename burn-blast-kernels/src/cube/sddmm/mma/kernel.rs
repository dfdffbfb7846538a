//! The loop nest: one cube owns a few blocks of one block column and walks the rows of `x` and `dy`. Its copies run a
//! few stages ahead.

use cubecl::prelude::*;

use super::base::Blueprint;
use crate::cube::load::F4;
use crate::cube::tile::mma::fragment::{
    Sum, Wide, commit, copy, multiply, plane_col, plane_row, wait, zero_sums,
};
use crate::cube::tile::mma::{INSTRUCTION_COLS, INSTRUCTION_ROWS, PLANE, WIDE, place};

/// Sizes of a sampled product: `x [m, k]`, `dy [m, n]`, `values` results.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct SampledSizes {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    pub values: usize,
    /// Parts of the rows.
    pub parts: usize,
}

/// Which blocks a cube owns, and which rows it walks.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Group {
    /// First slot of the group.
    first: usize,
    /// Blocks of the group.
    count: usize,
    /// First column of `dy`.
    col: usize,
    /// First row of `x` and `dy`.
    row: usize,
}

/// `out[part, slot, i, j] = Σ_m x[m, row·b + i] · dy[m, col·b + j]` over the rows of the part, zero
/// outside the weight. `k` and `n` are multiples of 8.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(crate) fn sddmm_mma_kernel<F: Float, O: Float>(
    x: &[Wide<F>],
    dy: &[Wide<F>],
    row_of_slot: &[u32],
    col_of_slot: &[u32],
    group_starts: &[u32],
    out: &mut [Vector<O, Const<2>>],
    sizes: SampledSizes,
    cubes: usize,
    #[comptime] blueprint: Blueprint,
    #[define(F)] _dtype: ElemType,
    #[define(O)] _out_type: ElemType,
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let tile = comptime!(blueprint.tile);
    let group = CUBE_POS / sizes.parts;
    let part = CUBE_POS % sizes.parts;
    let first = group_starts[group] as usize;
    let all_steps = sizes.m.div_ceil(tile.depth());
    let per_part = all_steps.div_ceil(sizes.parts);
    let first_step = clamp_max(part * per_part, all_steps);
    let steps = clamp_max(per_part, all_steps - first_step);
    let own = Group {
        first,
        count: group_starts[group + 1] as usize - first,
        col: col_of_slot[first] as usize * blueprint.block,
        row: first_step * tile.depth(),
    };
    // A unit copies from one block of its group only, always the same columns of it.
    let quad = UNIT_POS as usize % comptime!(tile.a.line);
    let nth = quad * WIDE / blueprint.block;
    let mut x_col = sizes.k;
    if nth < own.count {
        x_col = row_of_slot[first + nth] as usize * blueprint.block + quad * WIDE % blueprint.block;
    }

    let mut x_tile = Shared::<[Wide<F>]>::new_slice(comptime!(tile.stages() * tile.a.vectors()));
    let mut dy_tile = Shared::<[Wide<F>]>::new_slice(comptime!(tile.stages() * tile.b.vectors()));
    let mut sums = zero_sums(tile);
    let ahead = comptime!(tile.stages() - 1);
    for step in 0..ahead {
        if step < steps {
            fill_x::<F>(x, &mut x_tile, own, x_col, step, step, sizes, blueprint);
            fill_dy::<F>(dy, &mut dy_tile, own, step, step, sizes, blueprint);
        }
        commit(tile);
    }
    for step in 0..steps {
        wait(tile);
        let next = step + ahead;
        if next < steps {
            let stage = next % comptime!(tile.stages());
            fill_x::<F>(x, &mut x_tile, own, x_col, next, stage, sizes, blueprint);
            fill_dy::<F>(dy, &mut dy_tile, own, next, stage, sizes, blueprint);
        }
        commit(tile);
        multiply::<F>(&x_tile, &dy_tile, &mut sums, step % comptime!(tile.stages()), tile);
    }
    store::<O>(out, row_of_slot, &sums, own, part, sizes, blueprint);
}

/// Copies `[depth, group · block]` of `x`.
#[cube]
#[allow(clippy::too_many_arguments)]
fn fill_x<F: Float>(
    x: &[Wide<F>],
    x_tile: &mut Shared<[Wide<F>]>,
    own: Group,
    x_col: usize,
    step: usize,
    stage: usize,
    sizes: SampledSizes,
    #[comptime] blueprint: Blueprint,
) {
    let tile = comptime!(blueprint.tile);
    let width = comptime!(tile.a.line);
    let quad = UNIT_POS as usize % width;
    #[unroll]
    for round in 0..comptime!(tile.a.lines * tile.a.line / tile.units()) {
        let line = UNIT_POS as usize / width + comptime!(round * tile.units() / tile.a.line);
        let row = own.row + step * comptime!(tile.depth()) + line;
        let inside = row < sizes.m && x_col < sizes.k;
        let place = stage * comptime!(tile.a.vectors()) + place(line, quad, tile.a);
        copy::<F>(x, (row * sizes.k + x_col) / WIDE, inside, x_tile, place, tile.pipelined);
    }
}

/// Copies `[depth, block]` of `dy`.
#[cube]
#[allow(clippy::too_many_arguments)]
fn fill_dy<F: Float>(
    dy: &[Wide<F>],
    dy_tile: &mut Shared<[Wide<F>]>,
    own: Group,
    step: usize,
    stage: usize,
    sizes: SampledSizes,
    #[comptime] blueprint: Blueprint,
) {
    let tile = comptime!(blueprint.tile);
    let width = comptime!(tile.b.line);
    let vectors = comptime!(tile.b.lines * tile.b.line);
    #[unroll]
    for round in 0..comptime!(vectors.div_ceil(tile.units())) {
        let at = UNIT_POS as usize + comptime!(round * tile.units());
        if comptime!(vectors.is_multiple_of(tile.units())) || at < vectors {
            let row = own.row + step * comptime!(tile.depth()) + at / width;
            let col = own.col + at % width * WIDE;
            let inside = row < sizes.m && col < sizes.n;
            let place = stage * comptime!(tile.b.vectors()) + place(at / width, at % width, tile.b);
            copy::<F>(dy, (row * sizes.n + col) / WIDE, inside, dy_tile, place, tile.pipelined);
        }
    }
}

/// Writes the blocks of the group; zeros outside the weight, where a padded zero may have met infinity.
#[cube]
fn store<O: Float>(
    out: &mut [Vector<O, Const<2>>],
    row_of_slot: &[u32],
    sums: &Sequence<Array<Sum>>,
    own: Group,
    part: usize,
    sizes: SampledSizes,
    #[comptime] blueprint: Blueprint,
) {
    let tile = comptime!(blueprint.tile);
    let lane = UNIT_POS as usize % PLANE;
    let col = plane_col(tile) + lane % 4 * 2;
    #[unroll]
    for i in 0..comptime!(tile.tiles_m()) {
        let row = plane_row(tile) + comptime!(i * INSTRUCTION_ROWS);
        let nth = row / blueprint.block;
        if nth < own.count {
            let slot = own.first + nth;
            let k = row_of_slot[slot] as usize * blueprint.block;
            #[unroll]
            for half in 0..2usize {
                let inner = row % blueprint.block + lane / 4 + comptime!(half * 8);
                let origin =
                    part * sizes.values + (slot * blueprint.block + inner) * blueprint.block;
                #[unroll]
                for j in 0..comptime!(tile.tiles_n()) {
                    let col = col + comptime!(j * INSTRUCTION_COLS);
                    let mut cells = Sum::zeroed();
                    if k + inner < sizes.k && own.col + col < sizes.n {
                        cells = sums.index(comptime!(i * tile.tiles_n() + j))[half];
                    }
                    out[(origin + col) / 2] = Vector::cast_from(cells);
                }
            }
        }
    }
}

/// `dw = Σ_part partial[part]`, in the order of the parts.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn add_row_parts_kernel<F: Float>(
    partial: &[F4],
    dw: &mut [Vector<F, Const<4>>],
    vectors: usize,
    parts: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < vectors {
        let mut sum = partial[at];
        for part in 1..parts {
            sum += partial[part * vectors + at];
        }
        dw[at] = Vector::cast_from(sum);
    }
}
