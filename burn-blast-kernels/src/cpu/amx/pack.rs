//! Operands regrouped into the tiles the unit loads: 16 lines of 64 bytes, one after the other.

use std::ops::Range;

use half::bf16;

/// Rows of an input tile, columns of a weight tile.
pub(super) const TILE_SIDE: usize = 16;
/// Columns of an input tile, rows of a weight tile.
pub(super) const TILE_DEPTH: usize = 32;
/// Elements of a tile.
pub(super) const TILE: usize = TILE_SIDE * TILE_DEPTH;

/// Columns `step * 32 ..` of some rows of `x [m, width]` as tiles `[rows / 16][16][32]`, zero beyond rows and width.
pub(super) fn pack_rows(x: &[bf16], width: usize, rows: Range<usize>, step: usize, to: &mut [u16]) {
    let from = (step * TILE_DEPTH).min(width);
    let until = (from + TILE_DEPTH).min(width);
    let mut lines = to.chunks_exact_mut(TILE_DEPTH);
    for (row, line) in rows.zip(&mut lines) {
        let (inside, beyond) = line.split_at_mut(until - from);
        for (to, from) in inside.iter_mut().zip(&x[row * width + from..]) {
            *to = from.to_bits();
        }
        beyond.fill(0);
    }
    lines.for_each(|line| line.fill(0));
}

/// A block `[b, b]`, or its transpose if `turned`, as tiles `[b / 32][b / 16][16][16][2]`: element `[k, n]` of the tile
/// of depth `k / 32` and columns `n / 16` lies beside `[k + 1, n]`.
pub(super) fn pack_block(block: &[bf16], b: usize, turned: bool, to: &mut [u16]) {
    let (down, right) = if turned { (1, b) } else { (b, 1) };
    for (at, tile) in to.chunks_exact_mut(TILE).enumerate() {
        let (depth, side) = (at / (b / TILE_SIDE) * TILE_DEPTH, at % (b / TILE_SIDE) * TILE_SIDE);
        for (pair, line) in tile.chunks_exact_mut(2 * TILE_SIDE).enumerate() {
            let first = (depth + 2 * pair) * down + side * right;
            for (n, both) in line.chunks_exact_mut(2).enumerate() {
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
        for turned in [false, true] {
            let mut tiles = vec![0; b * b];
            pack_block(&block, b, turned, &mut tiles);
            for (k, n) in [(0, 0), (1, 0), (0, 1), (31, 15), (32, 16), (63, 63), (17, 40)] {
                let tile = k / 32 * 4 + n / 16;
                let at = tile * TILE + k % 32 / 2 * 32 + n % 16 * 2 + k % 2;
                let want = if turned { n * b + k } else { k * b + n };
                assert_eq!(usize::from(tiles[at]), want, "[{k}, {n}], turned: {turned}");
            }
        }
    }

    #[test]
    fn rows_are_zero_beyond_the_input() {
        let (rows, width) = (18, 40);
        let x = numbered(rows * width);
        let mut tiles = vec![u16::MAX; 2 * TILE];
        pack_rows(&x, width, 1..rows, 1, &mut tiles);
        for (at, &got) in tiles.iter().enumerate() {
            let (row, col) = (at / 32 + 1, at % 32 + 32);
            let want = if row < rows && col < width { row * width + col } else { 0 };
            assert_eq!(usize::from(got), want, "[{row}, {col}]");
        }
    }
}
