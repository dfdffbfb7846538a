//! Register tiles. The loop nest: one cube owns a tile of both products, and walks the kept blocks of gate and up in its
//! block column, one after the other. If the two have one pattern, it walks them side by side and loads `x` once.

use cubecl::prelude::*;

use super::task::{Task, read_task};
use crate::Activation;
use crate::cube::epilogue::{gate_gradients, gate_value};
use crate::cube::grid::{Grid, tile_of};
use crate::cube::load::{F4, Sizes, load4, store4};
use crate::cube::tile::unit::UnitTile;
use crate::cube::tile::unit::registers::{
    Blocks, Place, buffer, contract, multiply, read_w, read_x, unit_col, w_registers, write_w,
    write_x, x_registers, zero_tile,
};

/// `h = f(x · gate) · (x · up)`. With gradients, `h` holds `dh` when the kernel starts, and they become the
/// gradients of the two products.
///
/// `joint` says that gate and up have one pattern.
#[cube(launch_unchecked, address_type = "dynamic")]
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
        first_row: row_tile * tile.rows,
        inner_col: (col_tile % comptime!(tile.col_tiles())) * tile.cols,
        unit_m: unit / comptime!(tile.units_n()),
        unit_n: unit % comptime!(tile.units_n()),
    };

    let mut x_tile = Shared::<[F4]>::new_slice(comptime!(tile.x_tile()));
    let mut gate_tile = Shared::<[F4]>::new_slice(comptime!(tile.w_tile()));
    let mut gates = zero_tile(tile);
    let mut ups = zero_tile(tile);
    if comptime!(joint) {
        let mut up_tile = Shared::<[F4]>::new_slice(comptime!(tile.w_tile()));
        let steps = task.gate_count * comptime!(tile.steps());
        let mut x_ahead = x_registers(tile);
        let mut gate_ahead = w_registers(tile);
        let mut up_ahead = w_registers(tile);
        for turn in 0..steps + 1 {
            // As in `contract`.
            if turn < steps {
                let block = turn / comptime!(tile.steps());
                let inner_k = (turn % comptime!(tile.steps())) * tile.depth;
                let first_k = index[task.rows + block] as usize * tile.block + inner_k;
                let (gate_slot, up_slot) = (task.gate_slot + block, task.up_slot + block);
                read_x::<F, NX>(x, &mut x_ahead, place.first_row, first_k, sizes.m, sizes.k, tile);
                read_w::<F>(gate, &mut gate_ahead, gate_slot, inner_k, place.inner_col, tile);
                read_w::<F>(up, &mut up_ahead, up_slot, inner_k, place.inner_col, tile);
            }
            if turn > 0 {
                let (last, unit_m, unit_n) = (buffer(turn + 1), place.unit_m, place.unit_n);
                multiply(&x_tile, &gate_tile, &mut gates, last, unit_m, unit_n, tile);
                multiply(&x_tile, &up_tile, &mut ups, last, unit_m, unit_n, tile);
            }
            if turn < steps {
                write_x(&mut x_tile, &x_ahead, buffer(turn), tile);
                write_w(&mut gate_tile, &gate_ahead, buffer(turn), tile);
                write_w(&mut up_tile, &up_ahead, buffer(turn), tile);
            }
            sync_cube();
        }
    } else {
        let slots = ComptimeOption::<&[u32]>::new_None();
        let blocks = Blocks { at: task.rows, slot: task.gate_slot, count: task.gate_count };
        let (xs, ws) = (&mut x_tile, &mut gate_tile);
        let (m, k) = (sizes.m, sizes.k);
        contract::<F, NX>(x, gate, index, &slots, blocks, xs, ws, &mut gates, place, m, k, tile);
        let at = task.rows + task.gate_count;
        let blocks = Blocks { at, slot: task.up_slot, count: task.up_count };
        let (xs, ws) = (&mut x_tile, &mut gate_tile);
        contract::<F, NX>(x, up, index, &slots, blocks, xs, ws, &mut ups, place, m, k, tile);
    }
    store::<F, NY>(h, gradients, &gates, &ups, task, place, sizes, tile, activation);
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
    let col =
        task.column * tile.block + place.inner_col + unit_col(place.unit_n, 0usize, 0usize, tile);
    let row = place.first_row + place.unit_m;
    #[comptime]
    match gradients {
        ComptimeOption::Some((dgate, dup)) => {
            #[unroll]
            for i in 0..comptime!(tile.unit_rows) {
                let row = row + comptime!(i * tile.units_m());
                // Outside of the matrix `load4` would read what another unit may be writing.
                let mut dh = F4::zeroed();
                if row < sizes.m && col < sizes.n {
                    dh = load4::<F, NY>(&*h, row, col, sizes.m, sizes.n);
                }
                let (dg, du, value) = gate_gradients(gates[i], ups[i], dh, activation);
                store4::<F, NY>(dgate, dg, row, col, sizes.m, sizes.n);
                store4::<F, NY>(dup, du, row, col, sizes.m, sizes.n);
                store4::<F, NY>(h, value, row, col, sizes.m, sizes.n);
            }
        }
        ComptimeOption::None =>
        {
            #[unroll]
            for i in 0..comptime!(tile.unit_rows) {
                let row = row + comptime!(i * tile.units_m());
                let value = gate_value(gates[i], ups[i], activation);
                store4::<F, NY>(h, value, row, col, sizes.m, sizes.n);
            }
        }
    }
}
