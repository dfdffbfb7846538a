//! The loop nest: one cube owns a tile of both products and walks the kept blocks of gate and up in its block column.
//! Its copies run a few stages ahead. The blocks of up follow the blocks of the gate without a pause; if the two have
//! one pattern, both are walked at once.

use cubecl::prelude::*;

use super::super::task::{Task, read_task};
use super::base::Blueprint;
use crate::Activation;
use crate::cube::epilogue::{gate_gradients, gate_value};
use crate::cube::grid::{Grid, tile_of};
use crate::cube::load::Sizes;
use crate::cube::tile::mma::fragment::{
    Sum, Wide, commit, copy, fill_x, multiply, plane_col, plane_row, wait, zero_sums,
};
use crate::cube::tile::mma::{INSTRUCTION_COLS, INSTRUCTION_ROWS, PLANE, WIDE, place};

/// Two neighbouring results of one row.
type Pair<F> = Vector<F, Const<2>>;

/// `h = f(x · gate) · (x · up)`. With gradients, `h` holds `dh` when the kernel starts, and they become the
/// gradients of the two products. `k` and `n` are multiples of 8.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
pub(crate) fn gated_mma_kernel<F: Float>(
    x: &[Wide<F>],
    gate: &[Wide<F>],
    up: &[Wide<F>],
    index: &[u32],
    h: &mut [Pair<F>],
    gradients: ComptimeOption<(&mut [Pair<F>], &mut [Pair<F>])>,
    sizes: Sizes,
    grid: Grid,
    #[comptime] blueprint: Blueprint,
    #[comptime] activation: Activation,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= grid.cubes {
        terminate!();
    }
    let tile = comptime!(blueprint.tile);
    let (row_tile, number) = tile_of(CUBE_POS, grid, sizes.m.div_ceil(tile.rows));
    let row = row_tile * tile.rows;
    let task = read_task(index, number);

    let mut x_tile = Shared::<[Wide<F>]>::new_slice(comptime!(tile.stages() * tile.a.vectors()));
    let mut w_tile = Shared::<[Wide<F>]>::new_slice(comptime!(tile.stages() * tile.b.vectors()));
    let per_block = comptime!(blueprint.block / tile.depth());
    let gate_steps = task.gate_count * per_block;
    let mut steps = gate_steps;
    if comptime!(!blueprint.joint) {
        steps += task.up_count * per_block;
    }
    for step in 0..comptime!(tile.stages() - 1) {
        if step < steps {
            fill::<F>(
                x,
                gate,
                up,
                index,
                &mut x_tile,
                &mut w_tile,
                task,
                row,
                step,
                sizes,
                blueprint,
            );
        }
        commit(tile);
    }
    // Of the gate; of both where they have one pattern.
    let mut gates = zero_sums(tile);
    let (xs, ws) = (&mut x_tile, &mut w_tile);
    add::<F>(
        x, gate, up, index, xs, ws, &mut gates, task, row, 0, gate_steps, steps, sizes, blueprint,
    );
    if comptime!(blueprint.joint) {
        store::<F>(h, gradients, &gates, &gates, task, row, sizes, blueprint, activation);
    } else {
        let mut ups = zero_sums(tile);
        let (xs, ws) = (&mut x_tile, &mut w_tile);
        add::<F>(
            x, gate, up, index, xs, ws, &mut ups, task, row, gate_steps, steps, steps, sizes,
            blueprint,
        );
        store::<F>(h, gradients, &gates, &ups, task, row, sizes, blueprint, activation);
    }
}

/// Adds the steps from `first` to `end` of all `steps` to `sums`. Each waits for its stage and starts the copies of the
/// stage that replaces the one before.
#[cube]
#[allow(clippy::too_many_arguments)]
fn add<F: Float>(
    x: &[Wide<F>],
    gate: &[Wide<F>],
    up: &[Wide<F>],
    index: &[u32],
    x_tile: &mut Shared<[Wide<F>]>,
    w_tile: &mut Shared<[Wide<F>]>,
    sums: &mut Sequence<Array<Sum>>,
    task: Task,
    row: usize,
    first: usize,
    end: usize,
    steps: usize,
    sizes: Sizes,
    #[comptime] blueprint: Blueprint,
) {
    let tile = comptime!(blueprint.tile);
    for step in first..end {
        wait(tile);
        let next = step + comptime!(tile.stages() - 1);
        if next < steps {
            fill::<F>(x, gate, up, index, x_tile, w_tile, task, row, next, sizes, blueprint);
        }
        commit(tile);
        multiply::<F>(&*x_tile, &*w_tile, sums, step % comptime!(tile.stages()), tile);
    }
}

/// Starts the copies of one step.
#[cube]
#[allow(clippy::too_many_arguments)]
fn fill<F: Float>(
    x: &[Wide<F>],
    gate: &[Wide<F>],
    up: &[Wide<F>],
    index: &[u32],
    x_tile: &mut Shared<[Wide<F>]>,
    w_tile: &mut Shared<[Wide<F>]>,
    task: Task,
    row: usize,
    step: usize,
    sizes: Sizes,
    #[comptime] blueprint: Blueprint,
) {
    let tile = comptime!(blueprint.tile);
    let per_block = comptime!(blueprint.block / tile.depth());
    let (at, inner) = (step / per_block, step % per_block);
    let stage = step % comptime!(tile.stages());
    // In the index, the block rows of up follow the block rows of the gate.
    let first_k = index[task.rows + at] as usize * blueprint.block;
    fill_x::<F>(x, x_tile, row, first_k, inner, stage, sizes.m, sizes.k, tile);
    if comptime!(blueprint.joint) {
        fill_w::<F>(gate, w_tile, task.gate_slot + at, inner, stage, blueprint, false);
        fill_w::<F>(up, w_tile, task.up_slot + at, inner, stage, blueprint, true);
    } else if at < task.gate_count {
        fill_w::<F>(gate, w_tile, task.gate_slot + at, inner, stage, blueprint, false);
    } else {
        let slot = task.up_slot + at - task.gate_count;
        fill_w::<F>(up, w_tile, slot, inner, stage, blueprint, false);
    }
}

/// Copies `[depth, block]` of a block to its part of the stage.
#[cube]
fn fill_w<F: Float>(
    values: &[Wide<F>],
    w_tile: &mut Shared<[Wide<F>]>,
    slot: usize,
    inner: usize,
    stage: usize,
    #[comptime] blueprint: Blueprint,
    #[comptime] second: bool,
) {
    let tile = comptime!(blueprint.tile);
    let width = comptime!(blueprint.block / WIDE);
    let vectors = comptime!(tile.b.lines * blueprint.block / WIDE);
    let origin = (slot * blueprint.block + inner * comptime!(tile.depth())) * width;
    #[unroll]
    for round in 0..comptime!(vectors.div_ceil(tile.units())) {
        let at = UNIT_POS as usize + comptime!(round * tile.units());
        if comptime!(vectors.is_multiple_of(tile.units())) || at < vectors {
            let quad = at % width + comptime!(if second { width } else { 0 });
            let place = stage * comptime!(tile.b.vectors()) + place(at / width, quad, tile.b);
            copy::<F>(values, origin + at, true.runtime(), w_tile, place, tile.pipelined);
        }
    }
}

/// First row and column of the output that a unit has sums of.
#[cube]
fn origin(task: Task, row: usize, #[comptime] blueprint: Blueprint) -> (usize, usize) {
    let tile = comptime!(blueprint.tile);
    let lane = UNIT_POS as usize % PLANE;
    let plane = plane_col(tile) / comptime!(tile.plane_cols());
    let col =
        task.column * blueprint.block + plane * comptime!(blueprint.plane_cols()) + lane % 4 * 2;
    (row + plane_row(tile) + lane / 4, col)
}

/// Combines the two products and writes the results that are inside the output: the hidden features, and with gradients
/// the gradients of the two products.
#[cube]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
fn store<F: Float>(
    h: &mut [Pair<F>],
    mut gradients: ComptimeOption<(&mut [Pair<F>], &mut [Pair<F>])>,
    gates: &Sequence<Array<Sum>>,
    ups: &Sequence<Array<Sum>>,
    task: Task,
    row: usize,
    sizes: Sizes,
    #[comptime] blueprint: Blueprint,
    #[comptime] activation: Activation,
) {
    let tile = comptime!(blueprint.tile);
    let (row, col) = origin(task, row, blueprint);
    #[unroll]
    for j in 0..comptime!(blueprint.tiles_n()) {
        let col = col + comptime!(j * INSTRUCTION_COLS);
        #[unroll]
        for i in 0..comptime!(tile.tiles_m()) {
            let gate = gates.index(comptime!(i * tile.tiles_n() + j));
            let up = ups.index(comptime!(i * tile.tiles_n() + j + blueprint.up_offset()));
            #[unroll]
            for half in 0..2usize {
                let row = row + comptime!(i * INSTRUCTION_ROWS + half * 8);
                if row < sizes.m && col < sizes.n {
                    let at = (row * sizes.n + col) / 2;
                    #[comptime]
                    match &mut gradients {
                        ComptimeOption::Some((dgate, dup)) => {
                            let dh = Sum::cast_from(h[at]);
                            let (dg, du, value) =
                                gate_gradients(gate[half], up[half], dh, activation);
                            dgate[at] = Vector::cast_from(dg);
                            dup[at] = Vector::cast_from(du);
                            h[at] = Vector::cast_from(value);
                        }
                        ComptimeOption::None => {
                            let value = gate_value(gate[half], up[half], activation);
                            h[at] = Vector::cast_from(value);
                        }
                    }
                }
            }
        }
    }
}
