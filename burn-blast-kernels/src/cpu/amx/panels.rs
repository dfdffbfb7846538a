//! Operands in the layout that tile registers are loaded from: tiles of 16 consecutive rows of 64 bytes.

use std::ops::Range;

use half::bf16;

/// Rows of an input tile, columns of a weight tile.
pub(super) const TILE_SIDE: usize = 16;
/// Columns of an input tile, rows of a weight tile.
pub(super) const TILE_DEPTH: usize = 32;
/// Elements of a tile.
pub(super) const TILE: usize = TILE_SIDE * TILE_DEPTH;

/// Writes the 32 columns from `step * 32` of some rows of `x [m, width]` as tiles `[rows / 16][16][32]`, with zeros beyond
/// the rows and the width.
pub(super) fn write_row_tiles(
    x: &[bf16],
    width: usize,
    rows: Range<usize>,
    step: usize,
    to: &mut [u16],
) {
    let from = (step * TILE_DEPTH).min(width);
    let until = (from + TILE_DEPTH).min(width);
    let mut tile_rows = to.chunks_exact_mut(TILE_DEPTH);
    for (row, to) in rows.zip(&mut tile_rows) {
        let (inside, beyond) = to.split_at_mut(until - from);
        for (to, from) in inside.iter_mut().zip(&x[row * width + from..]) {
            *to = from.to_bits();
        }
        beyond.fill(0);
    }
    tile_rows.for_each(|to| to.fill(0));
}

/// Writes a block `[b, b]`, or its transpose, as tiles `[b / 32][b / 16][16][16][2]`. The elements `[k, n]` and
/// `[k + 1, n]` with an even `k` are neighbours in the tile of depth `k / 32` and columns `n / 16`.
pub(super) fn write_block_tiles(block: &[bf16], b: usize, transposed: bool, to: &mut [u16]) {
    let (down, right) = if transposed { (1, b) } else { (b, 1) };
    for (at, tile) in to.chunks_exact_mut(TILE).enumerate() {
        let (depth, side) = (at / (b / TILE_SIDE) * TILE_DEPTH, at % (b / TILE_SIDE) * TILE_SIDE);
        for (pair, tile_row) in tile.chunks_exact_mut(2 * TILE_SIDE).enumerate() {
            let first = (depth + 2 * pair) * down + side * right;
            for (n, both) in tile_row.chunks_exact_mut(2).enumerate() {
                both[0] = block[first + n * right].to_bits();
                both[1] = block[first + n * right + down].to_bits();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(count: usize) -> Vec<bf16> {
        (0..count).map(|at| bf16::from_bits(at as u16)).collect()
    }

    #[test]
    fn a_block_and_its_transpose_are_in_pairs() {
        let b = 64;
        let block = numbered(b * b);
        for transposed in [false, true] {
            let mut tiles = vec![0; b * b];
            write_block_tiles(&block, b, transposed, &mut tiles);
            for (k, n) in [(0, 0), (1, 0), (0, 1), (31, 15), (32, 16), (63, 63), (17, 40)] {
                let tile = k / 32 * 4 + n / 16;
                let at = tile * TILE + k % 32 / 2 * 32 + n % 16 * 2 + k % 2;
                let want = if transposed { n * b + k } else { k * b + n };
                assert_eq!(usize::from(tiles[at]), want, "[{k}, {n}], transposed: {transposed}");
            }
        }
    }

    #[test]
    fn rows_are_zero_beyond_the_input() {
        let (rows, width) = (18, 40);
        let x = numbered(rows * width);
        let mut tiles = vec![u16::MAX; 2 * TILE];
        write_row_tiles(&x, width, 1..rows, 1, &mut tiles);
        for (at, &got) in tiles.iter().enumerate() {
            let (row, col) = (at / 32 + 1, at % 32 + 32);
            let want = if row < rows && col < width { row * width + col } else { 0 };
            assert_eq!(usize::from(got), want, "[{row}, {col}]");
        }
    }
}
