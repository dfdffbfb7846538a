//! Reads and writes of dense rows, shared by the matrix kernels.

use cubecl::prelude::*;

/// Four f32 in a register, the unit of every tile.
pub(super) type F4 = Vector<f32, Const<4>>;

/// Four elements of a row-major `[rows, cols]` matrix from `(row, col)` on, zero outside of it.
///
/// With a vector width of 4, `cols` and `col` are multiples of 4, so the four are in or out together.
#[cube]
pub(super) fn load4<F: Float, N: Size>(
    from: &[Vector<F, N>],
    row: usize,
    col: usize,
    rows: usize,
    cols: usize,
) -> F4 {
    let mut four = F4::zeroed();
    if row < rows {
        let at = row * cols + col;
        let width = N::value();
        if comptime!(width == 4) {
            if col < cols {
                four = F4::cast_from(from[at / 4]);
            }
        } else {
            #[unroll]
            for i in 0..4usize {
                if col + i < cols {
                    four.insert(i, f32::cast_from(from[at + i].extract(0usize)));
                }
            }
        }
    }
    four
}

/// Writes four elements of a row-major `[rows, cols]` matrix from `(row, col)` on, those that lie inside. The
/// vector width is as for [`load4`].
#[cube]
pub(super) fn store4<F: Float, N: Size>(
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
