//! Device code that kernels of every class share: sizes, reads and writes of dense rows, and sums over a cube.

use cubecl::prelude::*;

/// Sizes of a kernel with two dense tensors: `x [m, k]`, and `h` or `dy [m, n]`.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Sizes {
    pub m: usize,
    pub k: usize,
    pub n: usize,
}

/// Four f32 in a register, the unit of every tile.
pub(crate) type F4 = Vector<f32, Const<4>>;

/// Four elements of a row-major `[rows, cols]` matrix from `(row, col)` on, zero outside of it.
///
/// With a vector width of 4, `cols` and `col` are multiples of 4, so the four are in or out together. The matrix has an
/// element.
#[cube]
pub(crate) fn load4<F: Float, N: Size>(
    from: &[Vector<F, N>],
    row: usize,
    col: usize,
    rows: usize,
    cols: usize,
) -> F4 {
    // What is outside is read from inside and dropped, which needs no branch.
    let first = min(row, rows - 1) * cols;
    let width = N::value();
    if comptime!(width == 4) {
        let four = F4::cast_from(from[(first + min(col, cols - 4)) / 4]);
        select(row < rows && col < cols, four, F4::zeroed())
    } else {
        let mut four = F4::zeroed();
        #[unroll]
        for i in 0..4usize {
            let one = f32::cast_from(from[first + min(col + i, cols - 1)].extract(0usize));
            four.insert(i, select(row < rows && col + i < cols, one, 0.0f32));
        }
        four
    }
}

/// Writes four elements of a row-major `[rows, cols]` matrix from `(row, col)` on, if they are inside. The
/// vector width is as for [`load4`].
#[cube]
pub(crate) fn store4<F: Float, N: Size>(
    to: &mut [Vector<F, N>],
    four: F4,
    row: usize,
    col: usize,
    rows: usize,
    cols: usize,
) {
    if row < rows {
        let at = row * cols + col;
        let width = N::value();
        if comptime!(width == 4) {
            if col < cols {
                to[at / 4] = Vector::cast_from(four);
            }
        } else {
            #[unroll]
            for i in 0..4usize {
                if col + i < cols {
                    to[at + i] = Vector::cast_from(four.extract(i));
                }
            }
        }
    }
}

/// Sum over the units of a cube, a power of two. All units must call it; unit 0 gets the result.
#[cube]
pub(crate) fn tree_sum(own: f32, #[comptime] units: usize) -> f32 {
    let mut sums = Shared::<[f32]>::new_slice(units);
    let unit = UNIT_POS as usize;
    sums[unit] = own;
    sync_cube();
    let levels = comptime!(units.ilog2());
    #[unroll]
    for level in 0..levels {
        let half = comptime!(units >> (level + 1));
        if unit < half {
            sums[unit] += sums[unit + half];
        }
        sync_cube();
    }
    sums[0]
}
