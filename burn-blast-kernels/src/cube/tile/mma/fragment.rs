//! Copies into stages, and the matrix instruction on their contents.

use cubecl::cmma::{MatrixIdent, MmaDefinition};
use cubecl::prelude::barrier::copy_async_checked;
use cubecl::prelude::*;

use super::super::Order;
use super::{INSTRUCTION_COLS, INSTRUCTION_DEPTH, INSTRUCTION_ROWS, MmaTile, PLANE, WIDE, place};

/// Eight elements in 16 bytes, the unit of every copy.
pub(crate) type Wide<F> = Vector<F, Const<8>>;
/// Two neighbouring sums of one row, the unit of a result.
pub(crate) type Sum = Vector<f32, Const<2>>;

/// Copies one vector to a stage, or zeros if it is outside the matrix. `at` is not read then.
#[cube]
pub(crate) fn copy<F: Float>(
    from: &[Wide<F>],
    at: usize,
    inside: bool,
    to: &mut Shared<[Wide<F>]>,
    place: usize,
    #[comptime] pipelined: bool,
) {
    if comptime!(pipelined) {
        let start = select(inside, at, 0usize);
        let end = select(inside, at + 1, 0usize);
        // A source of length zero fills the destination with zeros.
        copy_async_checked(&from[start..end], &mut to[place..place + 1], 8u32);
    } else {
        let mut wide = Wide::<F>::zeroed();
        if inside {
            wide = from[at];
        }
        to[place] = wide;
    }
}

/// Ends the copies of one stage.
#[cube]
pub(crate) fn commit(#[comptime] tile: MmaTile) {
    if comptime!(tile.pipelined) {
        gpu_asm!("cp.async.commit_group;", options(explicit_mem));
    }
}

/// Waits until the oldest stage in flight has arrived, for all units of the cube. All of them have then
/// also read the stage before it, which may be filled again.
#[cube]
pub(crate) fn wait(#[comptime] tile: MmaTile) {
    if comptime!(tile.pipelined) {
        let in_flight = comptime!(tile.stages() - 2);
        gpu_asm!("cp.async.wait_group {in_flight};", in_flight = const in_flight, options(explicit_mem));
    }
    sync_cube();
}

/// Copies `[rows, depth]` of `x`; zeros outside, where a product with padding must not see NaN.
#[cube]
#[allow(clippy::too_many_arguments)]
pub(crate) fn fill_x<F: Float>(
    x: &[Wide<F>],
    x_tile: &mut Shared<[Wide<F>]>,
    first_row: usize,
    first_k: usize,
    inner: usize,
    stage: usize,
    m: usize,
    k: usize,
    #[comptime] tile: MmaTile,
) {
    let width = comptime!(tile.a.line);
    let quad = UNIT_POS as usize % width;
    let col = first_k + inner * comptime!(tile.depth()) + quad * WIDE;
    #[unroll]
    for round in 0..comptime!(tile.a.lines * tile.a.line / tile.units()) {
        let line = UNIT_POS as usize / width + comptime!(round * tile.units() / tile.a.line);
        let row = first_row + line;
        let place = stage * comptime!(tile.a.vectors()) + place(line, quad, tile.a);
        copy::<F>(x, (row * k + col) / WIDE, row < m && col < k, x_tile, place, tile.pipelined);
    }
}

/// First row of the unit's plane in the output tile.
#[cube]
pub(crate) fn plane_row(#[comptime] tile: MmaTile) -> usize {
    (UNIT_POS as usize / comptime!(PLANE * tile.planes_n)) * comptime!(tile.plane_rows())
}

/// First column of the unit's plane in the output tile.
#[cube]
pub(crate) fn plane_col(#[comptime] tile: MmaTile) -> usize {
    (UNIT_POS as usize / PLANE % tile.planes_n) * comptime!(tile.plane_cols())
}

/// Zeros for every sum of a plane.
#[cube]
pub(crate) fn zero_sums(#[comptime] tile: MmaTile) -> Sequence<Array<Sum>> {
    let mut sums = Sequence::<Array<Sum>>::new();
    #[unroll]
    for _ in 0..comptime!(tile.tiles_m() * tile.tiles_n()) {
        let mut sum = Array::<Sum>::new(2usize);
        sum[0] = Sum::zeroed();
        sum[1] = Sum::zeroed();
        sums.push(sum);
    }
    sums
}

/// Adds the product of one stage to the sums of each plane.
#[cube]
pub(crate) fn multiply<F: Float>(
    a_tile: &Shared<[Wide<F>]>,
    b_tile: &Shared<[Wide<F>]>,
    sums: &mut Sequence<Array<Sum>>,
    stage: usize,
    #[comptime] tile: MmaTile,
) {
    let instruction =
        MmaDefinition::<F, F, f32>::new(INSTRUCTION_ROWS, INSTRUCTION_COLS, INSTRUCTION_DEPTH);
    // A fragment starts a multiple of eight lines further, where the permutation is the same. The bits of the number of its vector
    // are zero in the unit's first vector, so an exclusive or adds it.
    let a_place = stage * comptime!(tile.a.vectors()) + a_place(tile);
    let b_place = stage * comptime!(tile.b.vectors()) + b_place(tile);
    #[unroll]
    for inner in 0..comptime!(tile.depth() / INSTRUCTION_DEPTH) {
        let mut b = Sequence::<Array<Vector<F, Const<2>>>>::new();
        #[unroll]
        for pair in 0..comptime!(tile.tiles_n() / 2) {
            let from = comptime!(tile.b.from(tile.tile_col(2 * pair), inner * INSTRUCTION_DEPTH));
            let at = (b_place + comptime!(from.line * tile.b.pitch)) ^ from.quad;
            let four = instruction.load_matrix::<Wide<F>, Const<2>>(
                &b_tile[at..at + 1],
                MatrixIdent::B,
                4usize,
                comptime!(tile.b.order == Order::ContractionOuter),
            );
            #[unroll]
            for half in 0..2usize {
                let mut two = Array::<Vector<F, Const<2>>>::new(2usize);
                two[0] = four[comptime!(2 * half)];
                two[1] = four[comptime!(2 * half + 1)];
                b.push(two);
            }
        }
        #[unroll]
        for i in 0..comptime!(tile.tiles_m()) {
            let from = comptime!(tile.a.from(i * INSTRUCTION_ROWS, inner * INSTRUCTION_DEPTH));
            let at = (a_place + comptime!(from.line * tile.a.pitch)) ^ from.quad;
            let a = instruction.load_matrix::<Wide<F>, Const<2>>(
                &a_tile[at..at + 1],
                MatrixIdent::A,
                4usize,
                comptime!(tile.a.order == Order::ContractionOuter),
            );
            #[unroll]
            for j in 0..comptime!(tile.tiles_n()) {
                instruction.execute_inplace(
                    &a,
                    b.index(j),
                    sums.index_mut(comptime!(i * tile.tiles_n() + j)),
                );
            }
        }
    }
}

/// Where in a stage the unit's `ldmatrix` line of the left operand starts, for the first instruction.
///
/// The four 8 x 8 matrices are, in the order of the registers: upper rows, lower rows, each of the first
/// half of the contraction, then of the second.
#[cube]
fn a_place(#[comptime] tile: MmaTile) -> usize {
    let lane = UNIT_POS as usize % PLANE;
    let row = plane_row(tile);
    if comptime!(tile.a.order == Order::ContractionInner) {
        place(row + lane % 16, lane / 16, tile.a)
    } else {
        place(lane / 16 * 8 + lane % 8, row / WIDE + lane / 8 % 2, tile.a)
    }
}

/// The same for the right operand. The four matrices are: first and second half of the contraction, each
/// of the first eight columns, then of the next.
#[cube]
fn b_place(#[comptime] tile: MmaTile) -> usize {
    let lane = UNIT_POS as usize % PLANE;
    // The columns of two products count together.
    let plane = UNIT_POS as usize / PLANE % tile.planes_n;
    let col = plane * comptime!(tile.plane_cols() / tile.b.products);
    if comptime!(tile.b.order == Order::ContractionInner) {
        place(col + lane / 16 * 8 + lane % 8, lane / 8 % 2, tile.b)
    } else {
        place(lane % 16, col / WIDE + lane / 16, tile.b)
    }
}
