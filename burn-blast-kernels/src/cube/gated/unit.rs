//! Register tiles. The loop nest: one cube owns a tile of both products, and walks the kept blocks of gate and up in its
//! block column, one after the other. If the two have one pattern, it walks them side by side and loads `x` once.

use cubecl::prelude::*;

use super::task::{Task, read_task};
use crate::Activation;
use crate::cube::epilogue::{gate_gradients, gate_value};
use crate::cube::grid::{Grid, tile_of};
use crate::cube::load::{F4, Sizes, load4, store4, zero_sums};
use crate::cube::tile::unit::{UnitTile, fill_w, fill_x, multiply};

/// Place of the sums of a unit in the output.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Place {
    /// First row of the cube.
    row: usize,
    /// First column of the cube in its block column.
    inner_col: usize,
    unit_m: usize,
    unit_n: usize,
}

/// `h = f(x · gate) · (x · up)`. With gradients, `h` holds `dh` when the kernel starts, and they become the
/// gradients of the two products.
///
/// `joint` says that gate and up have one pattern.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
pub(crate) fn gated_kernel<F: Float, NX: Size, NY: Size>(
    x: &[Vector<F, NX>],
    gate: &[Vector<F, Const<4>>],
    up: &[Vector<F, Const<4>>],
    index: &[u32],
    h: &mut [Vector<F, NY>],
    gradients: ComptimeOption<(&mut [Vector<F, NY>], &mut [Vector<F, NY>])>,
    sizes: Sizes,
    grid: Grid,
    #[comptime] tile: UnitTile,
    #[comptime] joint: bool,
    #[comptime] activation: Activation,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= grid.cubes {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let (row_tile, col_tile) = tile_of(CUBE_POS, grid, sizes.m.div_ceil(tile.rows));
    let task = read_task(index, col_tile / comptime!(tile.col_tiles()));
    let place = Place {
        row: row_tile * tile.rows,
        inner_col: (col_tile % comptime!(tile.col_tiles())) * tile.cols,
        unit_m: unit / comptime!(tile.units_n()),
        unit_n: unit % comptime!(tile.units_n()),
    };

    let mut x_tile = Shared::<[F4]>::new_slice(comptime!(tile.x_tile()));
    let mut gate_tile = Shared::<[F4]>::new_slice(comptime!(tile.w_tile()));
    let mut gates = zero_sums();
    let mut ups = zero_sums();
    if comptime!(joint) {
        let mut up_tile = Shared::<[F4]>::new_slice(comptime!(tile.w_tile()));
        for at in 0..task.gate_count {
            let first_k = index[task.rows + at] as usize * tile.block;
            for step in 0..comptime!(tile.block / tile.depth) {
                let inner_k = step * tile.depth;
                let col = first_k + inner_k;
                fill_x::<F, NX>(x, &mut x_tile, place.row, col, sizes.m, sizes.k, tile);
                fill_w::<F>(
                    gate,
                    &mut gate_tile,
                    task.gate_slot + at,
                    inner_k,
                    place.inner_col,
                    tile,
                );
                fill_w::<F>(up, &mut up_tile, task.up_slot + at, inner_k, place.inner_col, tile);
                sync_cube();
                multiply(&x_tile, &gate_tile, &mut gates, place.unit_m, place.unit_n, tile);
                multiply(&x_tile, &up_tile, &mut ups, place.unit_m, place.unit_n, tile);
                sync_cube();
            }
        }
    } else {
        let (rows, count, slot) = (task.rows, task.gate_count, task.gate_slot);
        let (xs, ws) = (&mut x_tile, &mut gate_tile);
        add::<F, NX>(x, gate, index, rows, count, slot, xs, ws, &mut gates, place, sizes, tile);
        let (rows, count, slot) = (task.rows + task.gate_count, task.up_count, task.up_slot);
        let (xs, ws) = (&mut x_tile, &mut gate_tile);
        add::<F, NX>(x, up, index, rows, count, slot, xs, ws, &mut ups, place, sizes, tile);
    }
    store::<F, NY>(h, gradients, &gates, &ups, task, place, sizes, tile, activation);
}

/// Adds the product with `count` blocks from `slot` on, whose block rows are in `index` from `rows` on.
#[cube]
#[allow(clippy::too_many_arguments)]
fn add<F: Float, NX: Size>(
    x: &[Vector<F, NX>],
    values: &[Vector<F, Const<4>>],
    index: &[u32],
    rows: usize,
    count: usize,
    slot: usize,
    x_tile: &mut Shared<[F4]>,
    w_tile: &mut Shared<[F4]>,
    sums: &mut Array<F4>,
    place: Place,
    sizes: Sizes,
    #[comptime] tile: UnitTile,
) {
    for at in 0..count {
        let first_k = index[rows + at] as usize * tile.block;
        for step in 0..comptime!(tile.block / tile.depth) {
            let inner_k = step * tile.depth;
            fill_x::<F, NX>(x, x_tile, place.row, first_k + inner_k, sizes.m, sizes.k, tile);
            fill_w::<F>(values, w_tile, slot + at, inner_k, place.inner_col, tile);
            sync_cube();
            multiply(&*x_tile, &*w_tile, sums, place.unit_m, place.unit_n, tile);
            sync_cube();
        }
    }
}

/// Combines the two products and writes the results that are inside the output.
#[cube]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
fn store<F: Float, NY: Size>(
    h: &mut [Vector<F, NY>],
    gradients: ComptimeOption<(&mut [Vector<F, NY>], &mut [Vector<F, NY>])>,
    gates: &Array<F4>,
    ups: &Array<F4>,
    task: Task,
    place: Place,
    sizes: Sizes,
    #[comptime] tile: UnitTile,
    #[comptime] activation: Activation,
) {
    let col = task.column * tile.block + place.inner_col + place.unit_n * 4;
    let row = place.row + place.unit_m;
    #[comptime]
    match gradients {
        ComptimeOption::Some((dgate, dup)) =>
        {
            #[unroll]
            for i in 0..4usize {
                let row = row + i * comptime!(tile.units_m());
                let dh = load4::<F, NY>(&*h, row, col, sizes.m, sizes.n);
                let (dg, du, value) = gate_gradients(gates[i], ups[i], dh, activation);
                store4::<F, NY>(dgate, dg, row, col, sizes.m, sizes.n);
                store4::<F, NY>(dup, du, row, col, sizes.m, sizes.n);
                store4::<F, NY>(h, value, row, col, sizes.m, sizes.n);
            }
        }
        ComptimeOption::None =>
        {
            #[unroll]
            for i in 0..4usize {
                let row = row + i * comptime!(tile.units_m());
                let value = gate_value(gates[i], ups[i], activation);
                store4::<F, NY>(h, value, row, col, sizes.m, sizes.n);
            }
        }
    }
}
