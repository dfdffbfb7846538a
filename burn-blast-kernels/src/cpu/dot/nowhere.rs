//! Stands in for dot products where there are none. Nothing here is called, since there are no operands of such words.

use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use crate::cpu::Values;
use crate::cpu::arithmetic::TileLoop;

const NOWHERE: &str = "this processor has no dot products";

pub(super) fn has_pairs() -> bool {
    false
}

pub(super) fn pairs_are_fast() -> bool {
    false
}

pub(super) fn has_quads() -> bool {
    false
}

pub(in crate::cpu) unsafe fn run_pairs(_: impl TileLoop) {
    unreachable!("{NOWHERE}");
}

pub(in crate::cpu) unsafe fn run_quads(_: impl TileLoop) {
    unreachable!("{NOWHERE}");
}

macro_rules! writers_of_rows {
    ($($name:ident),*) => {$(
        pub(in crate::cpu) unsafe fn $name(
            _: Values<'_>,
            _: usize,
            _: Range<usize>,
            _: Range<usize>,
            _: usize,
            _: &mut [f32],
        ) {
            unreachable!("{NOWHERE}");
        }
    )*};
}

writers_of_rows!(write_rows_of_pairs, write_pairs_of_rows, write_rows_of_quads);

pub(in crate::cpu) unsafe fn write_quad_block(_: &[i8], _: usize, _: usize, _: &mut [f32]) {
    unreachable!("{NOWHERE}");
}

pub(in crate::cpu) unsafe fn round(_: &[f32], _: &mut [MaybeUninit<bf16>]) {
    unreachable!("{NOWHERE}");
}

pub(in crate::cpu) unsafe fn stream_rounded(
    _: &[f32],
    _: usize,
    _: &[f32],
    _: *mut bf16,
    _: usize,
) {
    unreachable!("{NOWHERE}");
}

pub(in crate::cpu) unsafe fn write_pair_block(
    _: Values<'_>,
    _: usize,
    _: bool,
    _: [usize; 2],
    _: &mut [f32],
    _: &mut [f32],
) {
    unreachable!("{NOWHERE}");
}
