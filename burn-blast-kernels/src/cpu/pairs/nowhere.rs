//! Stands in for dot products where there are none. Nothing here is called, since `words_for` answers `Single` there.

use std::ops::Range;

use half::bf16;

use crate::cpu::Values;
use crate::cpu::arithmetic::TileLoop;

const NOWHERE: &str = "this processor has no dot products";

pub(super) fn is_available() -> bool {
    false
}

pub(in crate::cpu) unsafe fn run(_: impl TileLoop) {
    unreachable!("{NOWHERE}");
}

pub(in crate::cpu) unsafe fn round(_: &[f32], _: &mut [bf16]) {
    unreachable!("{NOWHERE}");
}

pub(in crate::cpu) unsafe fn write_rows_of_pairs(
    _: Values<'_>,
    _: usize,
    _: Range<usize>,
    _: Range<usize>,
    _: usize,
    _: &mut [f32],
) {
    unreachable!("{NOWHERE}");
}

pub(in crate::cpu) unsafe fn write_pairs_of_rows(
    _: Values<'_>,
    _: usize,
    _: Range<usize>,
    _: Range<usize>,
    _: usize,
    _: &mut [f32],
) {
    unreachable!("{NOWHERE}");
}

pub(in crate::cpu) unsafe fn write_block(
    _: Values<'_>,
    _: usize,
    _: bool,
    _: [usize; 2],
    _: &mut [f32],
    _: &mut [f32],
) {
    unreachable!("{NOWHERE}");
}
