//! The loop nest: one cube owns a tile of one block and walks all rows of `x` and `dy`.

use cubecl::prelude::*;

use super::base::Blueprint;
use crate::cube::load::{F4, Sizes, load4, tree_sum};

/// `dw[slot, i, j] = Σ_m x[m, row·b + i] · dy[m, col·b + j]`, zero outside the weight. `group_starts` has the first slot
/// of each cube, and the end of the last.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(crate) fn sddmm_kernel<F: Float, NX: Size, NY: Size>(
    x: &[Vector<F, NX>],
    dy: &[Vector<F, NY>],
    row_of_slot: &[u32],
    col_of_slot: &[u32],
    group_starts: &[u32],
    dw: &mut [Vector<F, Const<4>>],
    sizes: Sizes,
    cubes: usize,
    #[comptime] tile: Blueprint,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let side = comptime!(tile.side_tiles());
    let start = CUBE_POS / comptime!(side * side);
    let inner = CUBE_POS % comptime!(side * side);
    let (inner_row, inner_col) = ((inner / side) * tile.side, (inner % side) * tile.side);
    let first = group_starts[start] as usize;
    let count = group_starts[start + 1] as usize - first;
    let first_col = col_of_slot[first] as usize * tile.block + inner_col;

    let unit = UNIT_POS as usize;
    // The block from which a unit copies, and the one of its sums. Beyond the last block it copies zeros.
    let quad = unit % comptime!(tile.x_width());
    let from = quad / comptime!(tile.dy_width());
    let mut x_col = sizes.k;
    if from < count {
        let row = row_of_slot[first + from] as usize * tile.block + inner_row;
        x_col = row + quad % comptime!(tile.dy_width()) * 4;
    }
    let sums = product::<F, NX, NY>(x, dy, x_col, first_col, sizes, tile);

    let own = unit / comptime!(tile.block_tiles());
    if own < count {
        let slot = first + own;
        let first_row = row_of_slot[slot] as usize * tile.block + inner_row;
        let origin = (slot * tile.block + inner_row) * tile.block + inner_col;
        #[unroll]
        for i in 0..comptime!(tile.sums()) {
            let (row, col) = cell(unit, i, tile);
            let cells = inside(sums[i], first_row + row, first_col + col, sizes);
            dw[(origin + row * tile.block + col) / 4] = Vector::cast_from(cells);
        }
    }
}

/// `norms[row, col] = sqrt(Σ_ij (Σ_m x[m, row·b + i] · dy[m, col·b + j])²)`.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(crate) fn grad_block_norms_kernel<F: Float, NX: Size, NY: Size>(
    x: &[Vector<F, NX>],
    dy: &[Vector<F, NY>],
    norms: &mut [F],
    sizes: Sizes,
    block_cols: usize,
    cubes: usize,
    #[comptime] tile: Blueprint,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let side = comptime!(tile.side_tiles());
    let block_row = (CUBE_POS / block_cols) * tile.block;
    let block_col = (CUBE_POS % block_cols) * tile.block;
    let unit = UNIT_POS as usize;
    let mut squares = 0.0f32;
    for inner in 0..comptime!(side * side) {
        let first_row = block_row + (inner / side) * tile.side;
        let first_col = block_col + (inner % side) * tile.side;
        let x_col = first_row + unit % comptime!(tile.x_width()) * 4;
        let mut sums = product::<F, NX, NY>(x, dy, x_col, first_col, sizes, tile);
        if comptime!(tile.groups > 1) {
            gather_groups(&mut sums, tile);
        }
        if unit < comptime!(tile.writers()) {
            #[unroll]
            for i in 0..comptime!(tile.sums()) {
                let (row, col) = cell(unit, i, tile);
                let cells = inside(sums[i], first_row + row, first_col + col, sizes);
                #[unroll]
                for j in 0..4usize {
                    squares = fma(cells.extract(j), cells.extract(j), squares);
                }
            }
        }
    }
    let total = tree_sum(squares, comptime!(tile.units()));
    if UNIT_POS == 0 {
        norms[CUBE_POS] = F::cast_from(total.sqrt());
    }
}

/// First row and column, in the tile of a block, of the `i`-th vector of the sums of a unit. Fours of rows and columns are
/// a half of the tile apart where a unit has eight, so that neighbouring units read neighbouring vectors.
#[cube]
fn cell(unit: usize, #[comptime] i: usize, #[comptime] tile: Blueprint) -> (usize, usize) {
    let (row, quad) = comptime!((i / tile.quads(), i % tile.quads()));
    let apart = comptime!(tile.side / tile.quads());
    let (own_row, own_col) = register_tile(unit, tile);
    (own_row * 4 + comptime!(row / 4 * apart + row % 4), own_col * 4 + comptime!(quad * apart))
}

/// Row and column of the register tile of a unit in its block.
#[cube]
fn register_tile(unit: usize, #[comptime] tile: Blueprint) -> (usize, usize) {
    let own = unit % comptime!(tile.block_tiles());
    (own / comptime!(tile.register_tiles()), own % comptime!(tile.register_tiles()))
}

/// The sums of a unit over the rows of its group. The unit copies the vectors of `x` in column `x_col`.
#[cube]
fn product<F: Float, NX: Size, NY: Size>(
    x: &[Vector<F, NX>],
    dy: &[Vector<F, NY>],
    x_col: usize,
    first_col: usize,
    sizes: Sizes,
    #[comptime] tile: Blueprint,
) -> Array<F4> {
    let (x_width, dy_width) = comptime!((tile.x_width(), tile.dy_width()));
    let (x_size, dy_size) = comptime!((tile.tile(x_width), tile.tile(dy_width)));
    let (x_turns, dy_turns) = comptime!((tile.ahead(x_width), tile.ahead(dy_width)));
    let mut x_tile = Shared::<[F4]>::new_slice(comptime!(2 * x_size));
    let mut dy_tile = Shared::<[F4]>::new_slice(comptime!(2 * dy_size));
    let mut sums = Array::<F4>::new(comptime!(tile.sums()));
    #[unroll]
    for i in 0..comptime!(tile.sums()) {
        sums[i] = F4::zeroed();
    }
    let mut x_ahead = Array::<F4>::new(x_turns);
    let mut dy_ahead = Array::<F4>::new(dy_turns);
    let unit = UNIT_POS as usize;
    let group = unit / comptime!(tile.writers());
    let dy_col = first_col + unit % dy_width * 4;

    let steps = sizes.m.div_ceil(tile.depth);
    for turn in 0..steps + 1 {
        // The rows of this turn are read while the ones of the turn before are multiplied.
        if turn < steps {
            #[unroll]
            for i in 0..x_turns {
                let row = turn * tile.depth + (unit + comptime!(i * tile.units())) / x_width;
                x_ahead[i] = load4::<F, NX>(x, row, x_col, sizes.m, sizes.k);
            }
            #[unroll]
            for i in 0..dy_turns {
                let row = turn * tile.depth + (unit + comptime!(i * tile.units())) / dy_width;
                dy_ahead[i] = load4::<F, NY>(dy, row, dy_col, sizes.m, sizes.n);
            }
        }
        if turn > 0 {
            multiply(&x_tile, &dy_tile, &mut sums, (turn + 1) % 2, group, tile);
        }
        if turn < steps {
            write(&mut x_tile, &x_ahead, turn % 2, x_size, tile);
            write(&mut dy_tile, &dy_ahead, turn % 2, dy_size, tile);
        }
        sync_cube();
    }
    sums
}

/// Writes what a unit read to one copy of a tile of `size` vectors.
#[cube]
fn write(
    to: &mut Shared<[F4]>,
    ahead: &Array<F4>,
    buffer: usize,
    #[comptime] size: usize,
    #[comptime] tile: Blueprint,
) {
    #[unroll]
    for i in 0..comptime!(size.div_ceil(tile.units())) {
        let at = UNIT_POS as usize + comptime!(i * tile.units());
        if comptime!(size >= tile.units()) {
            to[buffer * size + at] = ahead[i];
        } else {
            if at < size {
                to[buffer * size + at] = ahead[i];
            }
        }
    }
}

/// Adds the rows of a group in one copy of the tiles.
#[cube]
fn multiply(
    x_tile: &Shared<[F4]>,
    dy_tile: &Shared<[F4]>,
    sums: &mut Array<F4>,
    buffer: usize,
    group: usize,
    #[comptime] tile: Blueprint,
) {
    let (quads, apart) = comptime!((tile.quads(), tile.register_tiles()));
    let (x_width, dy_width) = comptime!((tile.x_width(), tile.dy_width()));
    let unit = UNIT_POS as usize % comptime!(tile.writers());
    let (own_row, own_col) = register_tile(unit, tile);
    let own_row = own_row + unit / comptime!(tile.block_tiles()) * dy_width;
    #[unroll]
    for round in 0..comptime!(tile.depth / tile.groups) {
        let row = group + comptime!(round * tile.groups);
        let x_first = buffer * comptime!(tile.tile(x_width)) + row * x_width + own_row;
        let dy_first = buffer * comptime!(tile.tile(dy_width)) + row * dy_width + own_col;
        let mut dy = Array::<F4>::new(quads);
        #[unroll]
        for c in 0..quads {
            dy[c] = dy_tile[dy_first + comptime!(c * apart)];
        }
        #[unroll]
        for r in 0..quads {
            let x = x_tile[x_first + comptime!(r * apart)];
            #[unroll]
            for i in 0..4usize {
                #[unroll]
                for c in 0..quads {
                    let at = comptime!((r * 4 + i) * quads + c);
                    sums[at] = fma(F4::new(x.extract(i)), dy[c], sums[at]);
                }
            }
        }
    }
}

/// Adds the sums of the other groups to the sums of the first, in a fixed order, one row after the other.
#[cube]
fn gather_groups(sums: &mut Array<F4>, #[comptime] tile: Blueprint) {
    let mut handover = Shared::<[F4]>::new_slice(comptime!(tile.handover()));
    let unit = UNIT_POS as usize;
    let quads = comptime!(tile.quads());
    #[unroll]
    for row in 0..comptime!(tile.unit) {
        #[unroll]
        for c in 0..quads {
            handover[unit * quads + c] = sums[comptime!(row * quads + c)];
        }
        sync_cube();
        if unit < comptime!(tile.writers()) {
            for group in 1..tile.groups {
                let from = (group * comptime!(tile.writers()) + unit) * quads;
                #[unroll]
                for c in 0..quads {
                    sums[comptime!(row * quads + c)] += handover[from + c];
                }
            }
        }
        sync_cube();
    }
}

/// Clears the cells outside the weight: a zero there may have met NaN or infinity in the other tensor.
#[cube]
fn inside(cells: F4, row: usize, col: usize, sizes: Sizes) -> F4 {
    let mut kept = F4::zeroed();
    #[unroll]
    for j in 0..4usize {
        if row < sizes.k && col + j < sizes.n {
            kept.insert(j, cells.extract(j));
        }
    }
    kept
}
