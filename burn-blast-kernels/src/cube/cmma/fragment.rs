//! Tiles in shared memory, multiplied by cooperative matrices.

use cubecl::cmma::{self, Matrix, MatrixIdent, MatrixLayout};
use cubecl::prelude::*;

use super::base::{CmmaTile, WIDTH};
use crate::cube::load::F4;
use crate::cube::mma::tile::Order;

/// Four elements, the unit of every copy.
pub(super) type Four<F> = Vector<F, Const<4>>;

/// How a fragment lies in memory: `a` by rows of the output, `b` by its columns.
fn layout(order: Order, ident: MatrixIdent) -> MatrixLayout {
    match (order, ident) {
        (Order::ContractionInner, MatrixIdent::A) => MatrixLayout::RowMajor,
        (Order::ContractionOuter, MatrixIdent::A) => MatrixLayout::ColMajor,
        (Order::ContractionInner, _) => MatrixLayout::ColMajor,
        (Order::ContractionOuter, _) => MatrixLayout::RowMajor,
    }
}

/// Vectors from the start of a stage to the fragment at `(outer, contraction)`.
fn offset(order: Order, outer: usize, contraction: usize, pitch: usize) -> usize {
    match order {
        Order::ContractionInner => outer * pitch + contraction / WIDTH,
        Order::ContractionOuter => contraction * pitch + outer / WIDTH,
    }
}

/// The unit's plane.
#[cube]
fn plane(#[comptime] tile: CmmaTile) -> usize {
    UNIT_POS as usize / tile.plane
}

/// First row of the unit's plane in the output tile.
#[cube]
pub(super) fn plane_row(#[comptime] tile: CmmaTile) -> usize {
    plane(tile) / tile.planes_n * comptime!(tile.plane_rows())
}

/// First column of the unit's plane in the output tile.
#[cube]
pub(super) fn plane_col(#[comptime] tile: CmmaTile) -> usize {
    plane(tile) % tile.planes_n * comptime!(tile.plane_cols())
}

/// Zeros for every sum of a plane.
#[cube]
pub(super) fn zero_sums(#[comptime] tile: CmmaTile) -> Sequence<Matrix<f32>> {
    let mut sums = Sequence::<Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(tile.tiles_m() * tile.tiles_n()) {
        sums.push(Matrix::<f32>::from_value(
            MatrixIdent::Accumulator,
            tile.side,
            tile.side,
            tile.side,
            MatrixLayout::Undefined,
            0.0f32,
        ));
    }
    sums
}

/// Adds the product of one stage to the sums of each plane.
#[cube]
pub(super) fn multiply<F: Float>(
    a_tile: &Shared<[Four<F>]>,
    b_tile: &Shared<[Four<F>]>,
    sums: &mut Sequence<Matrix<f32>>,
    stage: usize,
    #[comptime] tile: CmmaTile,
) {
    let a_origin = stage * comptime!(tile.a_stage())
        + start(plane_row(tile), comptime!(tile.a), comptime!(tile.a_pitch()));
    let b_origin = stage * comptime!(tile.b_stage())
        + start(plane_col(tile), comptime!(tile.b), comptime!(tile.b_pitch()));
    #[unroll]
    for inner in 0..comptime!(tile.depth / tile.side) {
        let mut b = Sequence::<Matrix<F>>::new();
        #[unroll]
        for j in 0..comptime!(tile.tiles_n()) {
            let at = b_origin
                + comptime!(offset(tile.b, j * tile.side, inner * tile.side, tile.b_pitch()));
            let pitch = comptime!((tile.b_pitch() * WIDTH) as u32);
            b.push(fragment::<F>(b_tile, at, MatrixIdent::B, comptime!(tile.b), pitch, tile));
        }
        #[unroll]
        for i in 0..comptime!(tile.tiles_m()) {
            let at = a_origin
                + comptime!(offset(tile.a, i * tile.side, inner * tile.side, tile.a_pitch()));
            let pitch = comptime!((tile.a_pitch() * WIDTH) as u32);
            let a = fragment::<F>(a_tile, at, MatrixIdent::A, comptime!(tile.a), pitch, tile);
            #[unroll]
            for j in 0..comptime!(tile.tiles_n()) {
                let sum = sums.index(comptime!(i * tile.tiles_n() + j));
                cmma::execute(&a, b.index(j), sum, sum);
            }
        }
    }
}

/// Vectors from the start of a stage to a row of `a`, or a column of `b`, that starts a fragment.
#[cube]
fn start(outer: usize, #[comptime] order: Order, #[comptime] pitch: usize) -> usize {
    if comptime!(order == Order::ContractionInner) { outer * pitch } else { outer / WIDTH }
}

/// The fragment that starts at vector `at`, in lines `pitch` elements apart.
#[cube]
fn fragment<F: Float>(
    from: &Shared<[Four<F>]>,
    at: usize,
    #[comptime] ident: MatrixIdent,
    #[comptime] order: Order,
    #[comptime] pitch: u32,
    #[comptime] tile: CmmaTile,
) -> Matrix<F> {
    let side = comptime!(tile.side);
    // SAFETY: loaded just below.
    let mut matrix = unsafe {
        Matrix::<F>::uninitialized(ident, side, side, side, comptime!(layout(order, ident)))
    };
    let end = at + comptime!((side - 1) * pitch as usize / WIDTH + side / WIDTH);
    cmma::load(&mut matrix, &from[at..end], pitch);
    matrix
}

/// Hands out one instruction's results: after this, the units of each plane find them, row by row, at
/// [`handed`]. All units of the cube must call it.
#[cube]
pub(super) fn hand_over(
    sum: &Matrix<f32>,
    handover: &mut Shared<[F4]>,
    #[comptime] tile: CmmaTile,
) {
    let size = comptime!(tile.handover());
    let from = plane(tile) * size;
    // The units of a plane may still read what was handed out before.
    sync_cube();
    let side = comptime!(tile.side as u32);
    cmma::store(&mut handover[from..from + size], sum, side, MatrixLayout::RowMajor);
    sync_cube();
}

/// Where the unit finds its `round`-th vector of what was handed out; it lies at this row and column of the
/// plane's tile.
#[cube]
pub(super) fn handed(round: usize, #[comptime] tile: CmmaTile) -> (usize, usize, usize) {
    let at = UNIT_POS as usize % tile.plane + round * tile.plane;
    let width = comptime!(tile.side / WIDTH);
    (plane(tile) * comptime!(tile.handover()) + at, at / width, at % width * WIDTH)
}
