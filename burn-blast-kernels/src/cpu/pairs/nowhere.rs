//! Stands in for dot products where there are none. Nothing here is called, since `words_for` answers `Single` there.

use std::ops::Range;

use crate::cpu::Values;
use crate::cpu::arithmetic::TileLoop;

const NOWHERE: &str = "this processor has no dot products";

pub(super) fn is_available() -> bool {
    false
}

pub(in crate::cpu) unsafe fn run(_: impl TileLoop) {
    unreachable!("{NOWHERE}");
}

pub(in crate::cpu) unsafe fn write_row(_: Values<'_>, _: Range<usize>, _: &mut [f32]) {
    unreachable!("{NOWHERE}");
}

pub(in crate::cpu) unsafe fn write_pair_of_rows(
    _: Values<'_>,
    _: Range<usize>,
    _: Option<Range<usize>>,
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
