//! One block of a weight gradient, as a sum over rows.

use super::registers::{Rows, Tiles};
use super::{SIDE, SQUARE};

/// Rows of words that all squares of a block sum over before the next rows: two panels of it fit a second-level cache, and
/// in blocks of 32 the first-level cache.
const WORDS_PER_PASS: usize = 128;

/// Computes a `[b, b]` block of `leftᵀ · right`, and writes it to `out` or adds it there.
///
/// # Shapes
/// - left: `[word_rows / 16, b, 16]` words, right: `[word_rows, b]` words
///
/// # Safety
/// - this machine has the unit, and `b` is a multiple of [`SQUARE`]
/// - the operands hold `word_rows` rows of words, a multiple of 16, and `out` has room for a block
pub(in crate::cpu) unsafe fn block_product(
    [left, right]: [*const f32; 2],
    word_rows: usize,
    b: usize,
    out: *mut f32,
    add: bool,
) {
    // SAFETY: the caller's; rows and columns stay inside.
    unsafe {
        let mut tiles = Tiles::new(SQUARE);
        let mut start = 0;
        loop {
            let end = word_rows.min(start + WORDS_PER_PASS);
            for k in (0..b).step_by(SQUARE) {
                for n in (0..b).step_by(SQUARE) {
                    let to = Rows { ptr: out.add(k * b + n), stride: b };
                    if add || start > 0 {
                        tiles.load(Rows { ptr: to.ptr.cast_const(), stride: b });
                    } else {
                        tiles.zero();
                    }
                    for row in (start..end).step_by(SIDE) {
                        let left = Rows { ptr: left.add(row * b + k * SIDE), stride: SIDE };
                        let right = Rows { ptr: right.add(row * b + n), stride: b };
                        tiles.multiply(left, right);
                    }
                    tiles.store(to);
                }
            }
            start = end;
            if start >= word_rows {
                return;
            }
        }
    }
}
