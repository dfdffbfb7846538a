//! What a unit does with a tile: it reads ahead to registers, writes to shared memory, and multiplies.

use cubecl::prelude::*;

use super::{BUFFERS, UnitTile};
use crate::cube::load::{F4, load4};

/// The sums of a unit before the first step.
#[cube]
pub(crate) fn zero_tile(#[comptime] tile: UnitTile) -> Array<F4> {
    let mut sums = Array::<F4>::new(comptime!(tile.sums()));
    #[unroll]
    for i in 0..comptime!(tile.sums()) {
        sums[i] = F4::zeroed();
    }
    sums
}

/// Registers for the next tile of `x`.
#[cube]
pub(crate) fn x_registers(#[comptime] tile: UnitTile) -> Array<F4> {
    Array::<F4>::new(comptime!(tile.x_ahead()))
}

/// Registers for the next tile of a weight.
#[cube]
pub(crate) fn w_registers(#[comptime] tile: UnitTile) -> Array<F4> {
    Array::<F4>::new(comptime!(tile.w_ahead()))
}

/// Place of vector `quad` of a line in a tile of lines of `depth` elements. The order of the vectors in a line depends on
/// the line, so that units that read the same vector of neighbouring lines use different memory banks.
#[cube]
fn place(line: usize, quad: usize, #[comptime] tile: UnitTile) -> usize {
    let width = comptime!(tile.depth / 4);
    // Eight vectors span all banks.
    let turn = (line / comptime!(8 / width)) % width;
    line * width + (quad ^ turn)
}

/// Reads `[rows, depth]` of `x` to registers.
#[cube]
pub(crate) fn read_x<F: Float, N: Size>(
    x: &[Vector<F, N>],
    ahead: &mut Array<F4>,
    first_row: usize,
    first_k: usize,
    m: usize,
    k: usize,
    #[comptime] tile: UnitTile,
) {
    let width = comptime!(tile.depth / 4);
    #[unroll]
    for i in 0..comptime!(tile.x_ahead()) {
        let at = UNIT_POS as usize + i * comptime!(tile.units());
        ahead[i] = load4::<F, N>(x, first_row + at / width, first_k + (at % width) * 4, m, k);
    }
}

/// Writes what [`read_x`] read.
#[cube]
pub(crate) fn write_x(
    x_tile: &mut Shared<[F4]>,
    ahead: &Array<F4>,
    buffer: usize,
    #[comptime] tile: UnitTile,
) {
    let width = comptime!(tile.depth / 4);
    let vectors = comptime!(tile.x_tile() / BUFFERS);
    #[unroll]
    for i in 0..comptime!(tile.x_ahead()) {
        let at = UNIT_POS as usize + i * comptime!(tile.units());
        // A cube may have more units than the tile has vectors.
        if comptime!(vectors >= tile.units()) {
            x_tile[buffer * vectors + place(at / width, at % width, tile)] = ahead[i];
        } else {
            if at < vectors {
                x_tile[buffer * vectors + place(at / width, at % width, tile)] = ahead[i];
            }
        }
    }
}

/// Reads `[depth, cols]` of a block to registers, or `[cols, depth]` when transposed: rows of a block stay rows, so that
/// both directions read memory in order.
#[cube]
pub(crate) fn read_w<F: Float>(
    values: &[Vector<F, Const<4>>],
    ahead: &mut Array<F4>,
    block_slot: usize,
    inner_k: usize,
    inner_col: usize,
    #[comptime] tile: UnitTile,
) {
    let width = comptime!(if tile.transposed { tile.depth / 4 } else { tile.cols / 4 });
    let vectors = comptime!(tile.w_tile() / BUFFERS);
    let (first_row, first_col) =
        if comptime!(tile.transposed) { (inner_col, inner_k) } else { (inner_k, inner_col) };
    let origin = (block_slot * tile.block + first_row) * tile.block + first_col;
    #[unroll]
    for i in 0..comptime!(tile.w_ahead()) {
        let unit = UNIT_POS as usize + i * comptime!(tile.units());
        let at = if comptime!(vectors >= tile.units()) { unit } else { min(unit, vectors - 1) };
        ahead[i] = F4::cast_from(values[(origin + at / width * tile.block) / 4 + at % width]);
    }
}

/// Writes what [`read_w`] read.
#[cube]
pub(crate) fn write_w(
    w_tile: &mut Shared<[F4]>,
    ahead: &Array<F4>,
    buffer: usize,
    #[comptime] tile: UnitTile,
) {
    let vectors = comptime!(tile.w_tile() / BUFFERS);
    #[unroll]
    for i in 0..comptime!(tile.w_ahead()) {
        let at = UNIT_POS as usize + i * comptime!(tile.units());
        if comptime!(vectors >= tile.units()) {
            w_tile[buffer * vectors + w_place(at, tile)] = ahead[i];
        } else {
            if at < vectors {
                w_tile[buffer * vectors + w_place(at, tile)] = ahead[i];
            }
        }
    }
}

/// Place of vector `at` of a weight's tile. The transposed tile is read down its columns, hence ordered as `x` is.
#[cube]
fn w_place(at: usize, #[comptime] tile: UnitTile) -> usize {
    if comptime!(tile.transposed) {
        let width = comptime!(tile.depth / 4);
        place(at / width, at % width, tile)
    } else {
        at
    }
}

/// The copy of the tiles that is written in a turn; the one of the turn before is read.
#[cube]
pub(crate) fn buffer(turn: usize) -> usize {
    turn % BUFFERS
}

/// Adds one step to the sums of a unit. The rows of a unit are `units_m` apart. Its columns are `units_n` apart when
/// transposed, and otherwise in groups of four that are `4 units_n` apart, so that the units of a plane read neighbouring
/// vectors.
#[cube]
pub(crate) fn multiply(
    x_tile: &Shared<[F4]>,
    w_tile: &Shared<[F4]>,
    sums: &mut Array<F4>,
    buffer: usize,
    unit_m: usize,
    unit_n: usize,
    #[comptime] tile: UnitTile,
) {
    let quads = comptime!(tile.quads());
    let (x_first, w_first) =
        (buffer * comptime!(tile.x_tile() / BUFFERS), buffer * comptime!(tile.w_tile() / BUFFERS));
    #[unroll]
    for quad in 0..comptime!(tile.depth / 4) {
        // w[j * quads + c] holds the c-th four columns of contraction row `4 quad + j`.
        let mut w = Array::<F4>::new(comptime!(4 * quads));
        if comptime!(tile.transposed) {
            #[unroll]
            for c in 0..quads {
                let mut columns = Array::<F4>::new(4usize);
                #[unroll]
                for j in 0..4usize {
                    let line = unit_n + comptime!((c * 4 + j) * tile.units_n());
                    columns[j] = w_tile[w_first + place(line, quad, tile)];
                }
                #[unroll]
                for j in 0..4usize {
                    let mut row = F4::zeroed();
                    #[unroll]
                    for i in 0..4usize {
                        row.insert(i, columns[i].extract(j));
                    }
                    w[j * quads + c] = row;
                }
            }
        } else {
            #[unroll]
            for j in 0..4usize {
                #[unroll]
                for c in 0..quads {
                    let row = comptime!((quad * 4 + j) * (tile.cols / 4) + c * tile.units_n());
                    w[j * quads + c] = w_tile[w_first + row + unit_n];
                }
            }
        }
        #[unroll]
        for i in 0..comptime!(tile.unit_rows) {
            let line = unit_m + comptime!(i * tile.units_m());
            let x = x_tile[x_first + place(line, quad, tile)];
            #[unroll]
            for j in 0..4usize {
                #[unroll]
                for c in 0..quads {
                    let at = comptime!(i * quads + c);
                    sums[at] = fma(F4::new(x.extract(j)), w[j * quads + c], sums[at]);
                }
            }
        }
    }
}

/// Column of element `j` of the `c`-th four columns of a unit, from the first column of the tile.
#[cube]
pub(crate) fn unit_col(
    unit_n: usize,
    #[comptime] c: usize,
    #[comptime] j: usize,
    #[comptime] tile: UnitTile,
) -> usize {
    if comptime!(tile.transposed) {
        unit_n + comptime!((c * 4 + j) * tile.units_n())
    } else {
        unit_n * 4 + comptime!(c * 4 * tile.units_n() + j)
    }
}

/// Kept blocks that lie side by side in the arrays of a pattern.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Blocks {
    /// Where their block rows begin in the index.
    pub at: usize,
    /// The value slot of the first one, if they are in slot order.
    pub slot: usize,
    pub count: usize,
}

/// Place of the sums of a unit in the output.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Place {
    /// First row of the cube.
    pub first_row: usize,
    /// First column of the cube in its block column.
    pub inner_col: usize,
    pub unit_m: usize,
    pub unit_n: usize,
}

/// Adds the product of `x` with these blocks. `idx` has their places along the contraction; `slots` their value slots,
/// without which they are in slot order.
#[cube]
#[allow(clippy::too_many_arguments)]
pub(crate) fn contract<F: Float, N: Size>(
    x: &[Vector<F, N>],
    values: &[Vector<F, Const<4>>],
    idx: &[u32],
    slots: &ComptimeOption<&[u32]>,
    blocks: Blocks,
    x_tile: &mut Shared<[F4]>,
    w_tile: &mut Shared<[F4]>,
    sums: &mut Array<F4>,
    place: Place,
    m: usize,
    k: usize,
    #[comptime] tile: UnitTile,
) {
    let steps = blocks.count * comptime!(tile.steps());
    let mut x_ahead = x_registers(tile);
    let mut w_ahead = w_registers(tile);
    for turn in 0..steps + 1 {
        // The tile of this turn is read while the one of the turn before is multiplied.
        if turn < steps {
            let block = turn / comptime!(tile.steps());
            let inner_k = (turn % comptime!(tile.steps())) * tile.depth;
            let at = blocks.at + block;
            let first_k = idx[at] as usize * tile.block + inner_k;
            #[comptime]
            let slot = match slots {
                ComptimeOption::Some(slots) => slots[at] as usize,
                ComptimeOption::None => blocks.slot + block,
            };
            read_x::<F, N>(x, &mut x_ahead, place.first_row, first_k, m, k, tile);
            read_w::<F>(values, &mut w_ahead, slot, inner_k, place.inner_col, tile);
        }
        if turn > 0 {
            let (last, unit_m, unit_n) = (buffer(turn + 1), place.unit_m, place.unit_n);
            multiply(&*x_tile, &*w_tile, sums, last, unit_m, unit_n, tile);
        }
        if turn < steps {
            write_x(x_tile, &x_ahead, buffer(turn), tile);
            write_w(w_tile, &w_ahead, buffer(turn), tile);
        }
        sync_cube();
    }
}
