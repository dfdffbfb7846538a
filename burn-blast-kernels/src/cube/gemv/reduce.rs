//! Reduction over the units of a cube and over the parts of a column, and the epilogue.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::base::{Blueprint, Rounds, UNITS};
use crate::Activation;
use crate::cube::epilogue::gate_value;

/// Sizes of a launch.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct GemvSizes {
    /// Rows of `x`, its columns, columns of `y`.
    pub m: usize,
    pub k: usize,
    pub n: usize,
    /// Parts of block columns.
    pub parts: usize,
}

/// The part of a block column that one cube walks.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Part {
    /// Its block column.
    pub column: usize,
    /// Number of the part, and how many the column has.
    pub part: usize,
    pub parts: usize,
    /// First row of `x`.
    pub first_row: usize,
}

/// What follows the sums of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ending {
    /// Activation of the product with the first weight, which is then multiplied by the product with the second.
    pub gate: Option<Activation>,
    /// Whether columns are split, so that sums are only stored.
    pub split: bool,
}

/// Adds the sums of the units of a cube along the contraction, in a fixed order. All units must call it.
#[cube]
pub(super) fn reduce<NR: Size>(
    tile: &mut Shared<[Vector<f32, NR>]>,
    sums: &Array<Vector<f32, NR>>,
    #[comptime] blueprint: Blueprint,
) -> Array<Vector<f32, NR>> {
    let rounds = comptime!(Rounds::new(&blueprint));
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
                sums[comptime!(quad * blueprint.cols() + col)];
        }
        sync_cube();
        #[unroll]
        for i in 0..comptime!(rounds.each) {
            let mut sum = Vector::<f32, NR>::zeroed();
            let place = place(round, i, blueprint);
            if place.inside {
                for unit_k in 0..comptime!(blueprint.units_k()) {
                    sum += tile[place.tile + unit_k * comptime!(UNITS / blueprint.units_k())];
                }
            }
            outs[comptime!(round * rounds.each + i)] = sum;
        }
    }
    outs
}

/// Source and destination of a result.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Place {
    /// Whether there is one: the last units of a round may have none.
    inside: bool,
    /// Place in the tile of the first unit that has a part of it.
    tile: usize,
    /// First row of a quad, in the tile of rows.
    row: usize,
    /// Column of the block.
    col: usize,
}

/// Place of the `i`-th result of a unit in a round. Neighbouring units have neighbouring columns, which suits the
/// stores.
#[cube]
fn place(
    #[comptime] round: usize,
    #[comptime] i: usize,
    #[comptime] blueprint: Blueprint,
) -> Place {
    let rounds = comptime!(Rounds::new(&blueprint));
    let at = UNIT_POS as usize + comptime!(i * UNITS);
    let col = at % rounds.cols;
    let rest = at / rounds.cols;
    let unit_n = rest % comptime!(blueprint.units_n());
    let rest = rest / comptime!(blueprint.units_n());
    let unit_m = rest % comptime!(blueprint.units_m());
    let quad = rest / comptime!(blueprint.units_m());
    let unit_quad = quad + comptime!(round / rounds.along_cols * rounds.quads);
    Place {
        inside: at < rounds.results,
        tile: (quad * rounds.cols + col) * UNITS + unit_n * comptime!(blueprint.units_m()) + unit_m,
        row: (unit_m * comptime!(blueprint.unit_quads()) + unit_quad) * comptime!(blueprint.quad()),
        col: unit_n * comptime!(blueprint.cols())
            + comptime!(round % rounds.along_cols * rounds.cols)
            + col,
    }
}

/// Writes the results of a cube, or its sums with split-K. `up` is read if there is a gate.
#[cube]
#[allow(clippy::too_many_arguments)]
pub(super) fn store<F: Float, O: Float, NR: Size>(
    out: &mut [O],
    bias: &ComptimeOption<&[F]>,
    sums: &Array<Vector<f32, NR>>,
    up: &Array<Vector<f32, NR>>,
    part: Part,
    sizes: GemvSizes,
    #[comptime] blueprint: Blueprint,
    #[comptime] end: Ending,
) {
    let rounds = comptime!(Rounds::new(&blueprint));
    let row_tiles = sizes.m.div_ceil(blueprint.rows);
    #[unroll]
    for round in 0..comptime!(rounds.along_cols * rounds.along_quads) {
        #[unroll]
        for i in 0..comptime!(rounds.each) {
            let place = place(round, i, blueprint);
            let col = part.column * blueprint.block + place.col;
            if place.inside && col < sizes.n {
                let sum = sums[comptime!(round * rounds.each + i)];
                let up = up[comptime!(round * rounds.each + i)];
                if comptime!(end.split) {
                    let walk = comptime!(blueprint.rows * blueprint.block);
                    let at = CUBE_POS * walk + place.row * blueprint.block + place.col;
                    let rows = sizes.m - part.first_row;
                    write::<O, NR>(out, sum, at, blueprint.block, place.row, rows, blueprint);
                    if comptime!(end.gate.is_some()) {
                        let at = sizes.parts * row_tiles * walk + at;
                        write::<O, NR>(out, up, at, blueprint.block, place.row, rows, blueprint);
                    }
                } else {
                    let y = result::<F, NR>(sum, up, bias, col, end);
                    let row = part.first_row + place.row;
                    write::<O, NR>(out, y, row * sizes.n + col, sizes.n, row, sizes.m, blueprint);
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
    #[comptime] blueprint: Blueprint,
) {
    #[unroll]
    for inner in 0..comptime!(blueprint.quad()) {
        if row + inner < rows {
            out[at + inner * stride] = O::cast_from(quad.extract(inner));
        }
    }
}

/// Adds the partial sums of each column, in the order of its parts, and applies the epilogue. `columns` holds two
/// numbers per column, as in `Work::by_column`.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(crate) fn gemv_add_parts_kernel<F: Float>(
    partial: &[f32],
    bias: ComptimeOption<&[F]>,
    columns: &[u32],
    y: &mut [F],
    sizes: GemvSizes,
    #[comptime] blueprint: Blueprint,
    #[comptime] end: Ending,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < sizes.m * sizes.n {
        let row = ABSOLUTE_POS / sizes.n;
        let col = ABSOLUTE_POS % sizes.n;
        let row_tiles = sizes.m.div_ceil(blueprint.rows);
        let column = col / blueprint.block;
        let first = columns[column * 2] as usize;
        let parts = columns[column * 2 + 1] as usize;
        let size = comptime!(blueprint.rows * blueprint.block);
        let at = (first * row_tiles + row / blueprint.rows) * size
            + row % blueprint.rows * blueprint.block
            + col % blueprint.block;
        let sum = add(partial, at, row_tiles * size, parts);
        let mut up = sum;
        if comptime!(end.gate.is_some()) {
            up = add(partial, sizes.parts * row_tiles * size + at, row_tiles * size, parts);
        }
        let one = result::<F, Const<1>>(Vector::new(sum), Vector::new(up), &bias, col, end);
        y[ABSOLUTE_POS] = F::cast_from(one.extract(0usize));
    }
}

#[cube]
fn add(partial: &[f32], at: usize, stride: usize, parts: usize) -> f32 {
    let mut sum = partial[at];
    for part in 1..parts {
        sum += partial[at + part * stride];
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
    #[comptime] end: Ending,
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
