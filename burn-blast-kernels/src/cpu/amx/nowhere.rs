//! Stands in for the matrix unit where there is none. Nothing here is called, since there are no operands for it.

use crate::cpu::macro_kernel::{Target, Term};

const NOWHERE: &str = "this processor has no matrix unit";

pub(in crate::cpu) fn is_available() -> bool {
    false
}

pub(in crate::cpu) unsafe fn macro_kernel(_: &[Term<'_>], _: usize, _: Target<'_>, _: &mut [f32]) {
    unreachable!("{NOWHERE}");
}

pub(in crate::cpu) unsafe fn block_product(
    _: [*const f32; 2],
    _: usize,
    _: usize,
    _: *mut f32,
    _: bool,
) {
    unreachable!("{NOWHERE}");
}
