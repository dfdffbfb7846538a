//! From the sums of units to results.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::base::{Blueprint, Rounds, UNITS};
use super::kernel::{Item, Sizes};
use crate::Activation;
use crate::cube::epilogue::gate_value;

/// What is done with the sums of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Finish {
    /// Of the first weight's product, which is then multiplied by the second's.
    pub gate: Option<Activation>,
    /// Whether columns are cut, so that sums are only stored.
    pub cut: bool,
}

/// Adds up what the units of a cube have summed along the contraction, in a fixed order. All units must call it.
#[cube]
pub(super) fn reduce<NR: Size>(
    tile: &mut Shared<[Vector<f32, NR>]>,
    sums: &Array<Vector<f32, NR>>,
    #[comptime] plan: Blueprint,
) -> Array<Vector<f32, NR>> {
    let rounds = comptime!(Rounds::new(&plan));
    let mut outs = Array::<Vector<f32, NR>>::new(comptime!(rounds.outs()));
    #[unroll]
    for round in 0..comptime!(rounds.along_cols * rounds.along_quads) {
        // The tile still holds `x`, or the round before.
        sync_cube();
        #[unroll]
        for at in 0..comptime!(rounds.cols * rounds.quads) {
            let quad = comptime!(round / rounds.along_cols * rounds.quads + at / rounds.cols);
            let col = comptime!(round % rounds.along_cols * rounds.cols + at % rounds.cols);
            tile[comptime!(at * UNITS) + UNIT_POS as usize] =
                sums[comptime!(quad * plan.cols() + col)];
        }
        sync_cube();
        #[unroll]
        for i in 0..comptime!(rounds.each) {
            let mut sum = Vector::<f32, NR>::zeroed();
            let place = place(round, i, plan);
            if place.inside {
                for unit_k in 0..comptime!(plan.units_k()) {
                    sum += tile[place.tile + unit_k * comptime!(UNITS / plan.units_k())];
                }
            }
            outs[comptime!(round * rounds.each + i)] = sum;
        }
    }
    outs
}

/// Where a result comes from and goes to.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Place {
    /// Whether there is one: the last units of a round may have none.
    inside: bool,
    /// Of the first unit that has a part of it.
    tile: usize,
    /// First row of a quad, in the tile of rows.
    row: usize,
    /// Column of the block.
    col: usize,
}

/// Place of the `i`-th result of a unit in a round. Neighbouring units have neighbouring columns, for the sake of
/// the stores.
#[cube]
fn place(#[comptime] round: usize, #[comptime] i: usize, #[comptime] plan: Blueprint) -> Place {
    let rounds = comptime!(Rounds::new(&plan));
    let at = UNIT_POS as usize + comptime!(i * UNITS);
    let col = at % rounds.cols;
    let rest = at / rounds.cols;
    let unit_n = rest % comptime!(plan.units_n());
    let rest = rest / comptime!(plan.units_n());
    let unit_m = rest % comptime!(plan.units_m());
    let quad = rest / comptime!(plan.units_m());
    let unit_quad = quad + comptime!(round / rounds.along_cols * rounds.quads);
    Place {
        inside: at < rounds.results,
        tile: (quad * rounds.cols + col) * UNITS + unit_n * comptime!(plan.units_m()) + unit_m,
        row: (unit_m * comptime!(plan.unit_quads()) + unit_quad) * comptime!(plan.quad()),
        col: unit_n * comptime!(plan.cols())
            + comptime!(round % rounds.along_cols * rounds.cols)
            + col,
    }
}

/// Writes the results of a cube; `up` is looked at if there is a gate.
#[cube]
#[allow(clippy::too_many_arguments)]
pub(super) fn finish<F: Float, O: Float, NR: Size>(
    out: &mut [O],
    bias: &ComptimeOption<&[F]>,
    sums: &Array<Vector<f32, NR>>,
    up: &Array<Vector<f32, NR>>,
    item: Item,
    sizes: Sizes,
    #[comptime] plan: Blueprint,
    #[comptime] end: Finish,
) {
    let rounds = comptime!(Rounds::new(&plan));
    let row_tiles = sizes.m.div_ceil(plan.rows);
    #[unroll]
    for round in 0..comptime!(rounds.along_cols * rounds.along_quads) {
        #[unroll]
        for i in 0..comptime!(rounds.each) {
            let place = place(round, i, plan);
            let col = item.column * plan.block + place.col;
            if place.inside && col < sizes.n {
                let sum = sums[comptime!(round * rounds.each + i)];
                let up = up[comptime!(round * rounds.each + i)];
                if comptime!(end.cut) {
                    let walk = comptime!(plan.rows * plan.block);
                    let at = CUBE_POS * walk + place.row * plan.block + place.col;
                    let rows = sizes.m - item.first_row;
                    write::<O, NR>(out, sum, at, plan.block, place.row, rows, plan);
                    if comptime!(end.gate.is_some()) {
                        let at = sizes.items * row_tiles * walk + at;
                        write::<O, NR>(out, up, at, plan.block, place.row, rows, plan);
                    }
                } else {
                    let y = result::<F, NR>(sum, up, bias, col, end);
                    let row = item.first_row + place.row;
                    write::<O, NR>(out, y, row * sizes.n + col, sizes.n, row, sizes.m, plan);
                }
            }
        }
    }
}

/// Writes a quad of rows, `stride` apart, as far as there are `rows`.
#[cube]
fn write<O: Float, NR: Size>(
    out: &mut [O],
    quad: Vector<f32, NR>,
    at: usize,
    stride: usize,
    row: usize,
    rows: usize,
    #[comptime] plan: Blueprint,
) {
    #[unroll]
    for inner in 0..comptime!(plan.quad()) {
        if row + inner < rows {
            out[at + inner * stride] = O::cast_from(quad.extract(inner));
        }
    }
}

/// Adds up the pieces of each column, in order, and finishes. `columns` is that of
/// [`Pieces`](super::pieces::Pieces).
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(crate) fn add_pieces_kernel<F: Float>(
    partial: &[f32],
    bias: ComptimeOption<&[F]>,
    columns: &[u32],
    y: &mut [F],
    sizes: Sizes,
    #[comptime] plan: Blueprint,
    #[comptime] end: Finish,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < sizes.m * sizes.n {
        let row = ABSOLUTE_POS / sizes.n;
        let col = ABSOLUTE_POS % sizes.n;
        let row_tiles = sizes.m.div_ceil(plan.rows);
        let column = col / plan.block;
        let first = columns[column * 2] as usize;
        let pieces = columns[column * 2 + 1] as usize;
        let piece = comptime!(plan.rows * plan.block);
        let at = (first * row_tiles + row / plan.rows) * piece
            + row % plan.rows * plan.block
            + col % plan.block;
        let sum = add(partial, at, row_tiles * piece, pieces);
        let mut up = sum;
        if comptime!(end.gate.is_some()) {
            up = add(partial, sizes.items * row_tiles * piece + at, row_tiles * piece, pieces);
        }
        let one = result::<F, Const<1>>(Vector::new(sum), Vector::new(up), &bias, col, end);
        y[ABSOLUTE_POS] = F::cast_from(one.extract(0usize));
    }
}

#[cube]
fn add(partial: &[f32], at: usize, stride: usize, pieces: usize) -> f32 {
    let mut sum = partial[at];
    for piece in 1..pieces {
        sum += partial[at + piece * stride];
    }
    sum
}

/// Bias, and the gate if there is one.
#[cube]
fn result<F: Float, N: Size>(
    sum: Vector<f32, N>,
    up: Vector<f32, N>,
    bias: &ComptimeOption<&[F]>,
    col: usize,
    #[comptime] end: Finish,
) -> Vector<f32, N> {
    let mut y = sum;
    #[comptime]
    if let ComptimeOption::Some(bias) = bias {
        y += Vector::new(f32::cast_from(bias[col]));
    }
    if comptime!(end.gate.is_some()) {
        y = gate_value::<N>(y, up, comptime!(end.gate.unwrap()));
    }
    y
}
