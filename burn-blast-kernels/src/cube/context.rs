//! What every launch needs besides its tensors.

use std::sync::Arc;

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::caps::Caps;
use super::index::{OnDevice, PatternIndex};
use crate::BlockPattern;

/// Where a kernel runs, on which pattern, with which storage type.
///
/// Made and checked by [`Context::new`]. Tensor arguments of the kernels are contiguous row-major buffers of this type on
/// this device.
pub struct Context<'a> {
    pub(super) client: &'a Client,
    pub(super) pattern: &'a BlockPattern,
    pub(super) dtype: ElemType,
    pub(super) caps: Caps,
}

impl Context<'_> {
    pub(super) fn index(&self) -> Arc<OnDevice<(), PatternIndex>> {
        PatternIndex::of(self.pattern, self.client)
    }

    /// Cubes spread over the three grid dimensions. The grid may be rounded up; kernels ignore cubes beyond `count`.
    ///
    /// # Panics
    /// If there are more than CubeCL counts, which [`for_rows`](Self::for_rows) refuses.
    pub(super) fn cubes(&self, count: usize) -> CubeCount {
        check_count(count);
        cubecl::calculate_cube_count_elemwise(self.client, count, CubeDim::new_1d(1))
    }

    /// Elements read at a time from rows of this length, 16 bytes at most.
    pub(super) fn wide_vector(&self, len: usize) -> usize {
        let most = (16 / self.dtype.size()).min(self.caps.vector);
        if len.is_multiple_of(most) { most } else { row_vector(len) }
    }
}

/// Elements read at a time from rows of this length.
pub(super) fn row_vector(len: usize) -> usize {
    if len.is_multiple_of(4) { 4 } else { 1 }
}

/// Panics if the number of cubes exceeds 32 bits: the launch would silently run fewer.
fn check_count(cubes: usize) {
    assert!(
        u32::try_from(cubes).is_ok(),
        "a launch of {cubes} cubes is too large: split the batch"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "a launch of 4294967296 cubes is too large")]
    fn a_grid_beyond_32_bits_is_refused() {
        check_count(u32::MAX as usize);
        check_count(1 << 32);
    }
}
