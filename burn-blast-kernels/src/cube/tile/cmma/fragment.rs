//! Tiles in shared memory, multiplied by cooperative matrices.

use cubecl::cmma::{self, Matrix, MatrixIdent, MatrixLayout};
use cubecl::prelude::*;

use super::super::{Order, Stage};
use super::{CmmaTile, WIDTH};
use crate::cube::load::F4;

/// Four elements, the unit of every copy.
pub(crate) type Four<F> = Vector<F, Const<4>>;

/// Memory order of a fragment: `a` by rows of the output, `b` by its columns.
fn layout(order: Order, ident: MatrixIdent) -> MatrixLayout {
    match (order, ident) {
        (Order::ContractionInner, MatrixIdent::A) => MatrixLayout::RowMajor,
        (Order::ContractionOuter, MatrixIdent::A) => MatrixLayout::ColMajor,
        (Order::ContractionInner, _) => MatrixLayout::ColMajor,
        (Order::ContractionOuter, _) => MatrixLayout::RowMajor,
    }
}

/// The unit's plane.
#[cube]
fn plane(#[comptime] tile: CmmaTile) -> usize {
    UNIT_POS as usize / tile.plane
}

/// First row of the unit's plane in the output tile.
#[cube]
pub(crate) fn plane_row(#[comptime] tile: CmmaTile) -> usize {
    plane(tile) / tile.planes_n * comptime!(tile.plane_rows())
}

/// First column of the unit's plane in the output tile.
#[cube]
pub(crate) fn plane_col(#[comptime] tile: CmmaTile) -> usize {
    plane(tile) % tile.planes_n * comptime!(tile.plane_cols())
}

/// Zeros for every sum of a plane.
#[cube]
pub(crate) fn zero_sums(#[comptime] tile: CmmaTile) -> Sequence<Matrix<f32>> {
    let mut sums = Sequence::<Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(tile.tiles_m() * tile.tiles_n()) {
        sums.push(Matrix::<f32>::from_value(
            MatrixIdent::Accumulator,
            tile.matrix.side,
            tile.matrix.side,
            tile.matrix.depth,
            MatrixLayout::Undefined,
            0.0f32,
        ));
    }
    sums
}

/// Where a unit copies from: its rows and its column of a row-major matrix, and the sides of that.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Source {
    /// Row that goes to the first line.
    pub first_row: usize,
    /// Column of the unit's vectors: a unit copies from one place of each line.
    pub col: usize,
    pub rows: usize,
    pub cols: usize,
}

/// Column of the unit's vectors in a line.
#[cube]
pub(crate) fn unit_col(#[comptime] operand: Stage) -> usize {
    UNIT_POS as usize % operand.line * WIDTH
}

/// Copies a stage; zeros outside of the matrix, where a product with padding must not see NaN.
#[cube]
pub(crate) fn fill<F: Float, E: Float>(
    matrix: &[Four<F>],
    to: &mut Shared<[Four<E>]>,
    source: Source,
    stage: usize,
    #[comptime] operand: Stage,
    #[comptime] tile: CmmaTile,
) {
    let place = UNIT_POS as usize % operand.line;
    for line in range_stepped(
        UNIT_POS as usize / operand.line,
        operand.lines,
        comptime!(tile.units() / operand.line),
    ) {
        let row = source.first_row + line;
        let mut four = Four::<F>::zeroed();
        if row < source.rows && source.col < source.cols {
            four = matrix[(row * source.cols + source.col) / WIDTH];
        }
        to[stage * comptime!(operand.vectors()) + line * operand.pitch + place] =
            Vector::cast_from(four);
    }
}

/// Adds the product of one stage to the sums of each plane.
#[cube]
pub(crate) fn multiply<E: Float>(
    a_tile: &Shared<[Four<E>]>,
    b_tile: &Shared<[Four<E>]>,
    sums: &mut Sequence<Matrix<f32>>,
    stage: usize,
    #[comptime] tile: CmmaTile,
) {
    let (side, depth) = comptime!((tile.matrix.side, tile.matrix.depth));
    let a_origin = origin(stage, plane_row(tile), comptime!(tile.a));
    let b_origin = origin(stage, plane_col(tile), comptime!(tile.b));
    #[unroll]
    for inner in 0..comptime!(tile.depth / depth) {
        let mut b = Sequence::<Matrix<E>>::new();
        #[unroll]
        for j in 0..comptime!(tile.tiles_n()) {
            let at = b_origin + comptime!(tile.b.offset(j * side, inner * depth));
            b.push(fragment::<E>(b_tile, at, MatrixIdent::B, comptime!(tile.b), tile));
        }
        #[unroll]
        for i in 0..comptime!(tile.tiles_m()) {
            let at = a_origin + comptime!(tile.a.offset(i * side, inner * depth));
            let a = fragment::<E>(a_tile, at, MatrixIdent::A, comptime!(tile.a), tile);
            #[unroll]
            for j in 0..comptime!(tile.tiles_n()) {
                let sum = sums.index(comptime!(i * tile.tiles_n() + j));
                cmma::execute(&a, b.index(j), sum, sum);
            }
        }
    }
}

/// Vectors to the plane's first fragment of a stage: `outer` is its row of `a`, or its column of `b`.
#[cube]
fn origin(stage: usize, outer: usize, #[comptime] operand: Stage) -> usize {
    let inner = if comptime!(operand.order == Order::ContractionInner) {
        outer * operand.pitch
    } else {
        outer / WIDTH
    };
    stage * comptime!(operand.vectors()) + inner
}

/// The fragment that starts at vector `at`.
#[cube]
fn fragment<E: Float>(
    from: &Shared<[Four<E>]>,
    at: usize,
    #[comptime] ident: MatrixIdent,
    #[comptime] operand: Stage,
    #[comptime] tile: CmmaTile,
) -> Matrix<E> {
    let (side, depth) = comptime!((tile.matrix.side, tile.matrix.depth));
    // SAFETY: loaded just below.
    let mut matrix = unsafe {
        Matrix::<E>::uninitialized(
            ident,
            side,
            side,
            depth,
            comptime!(layout(operand.order, ident)),
        )
    };
    let [lines, line] = comptime!(tile.fragment(operand));
    let end = at + comptime!((lines - 1) * operand.pitch + line);
    cmma::load(&mut matrix, &from[at..end], comptime!((operand.pitch * WIDTH) as u32));
    matrix
}

/// Hands out the results of one instruction: after this, the units of each plane find them, row by row, at
/// [`handed`]. All units of the cube must call it.
#[cube]
pub(crate) fn hand_over(
    sum: &Matrix<f32>,
    handover: &mut Shared<[F4]>,
    #[comptime] tile: CmmaTile,
) {
    let size = comptime!(tile.handover());
    let from = plane(tile) * size;
    // The units of a plane may still read what was handed out before.
    sync_cube();
    let side = comptime!(tile.matrix.side as u32);
    cmma::store(&mut handover[from..from + size], sum, side, MatrixLayout::RowMajor);
    sync_cube();
}

/// Where the unit finds its `round`-th vector of the results that were handed out, and its row and column in the tile
/// of the plane.
#[cube]
pub(crate) fn handed(round: usize, #[comptime] tile: CmmaTile) -> (usize, usize, usize) {
    let at = UNIT_POS as usize % tile.plane + round * tile.plane;
    let width = comptime!(tile.matrix.side / WIDTH);
    (plane(tile) * comptime!(tile.handover()) + at, at / width, at % width * WIDTH)
}
