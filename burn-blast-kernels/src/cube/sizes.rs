//! The sizes that kernels of two dense tensors take.

use cubecl::prelude::*;

/// `x [m, k]`, and `h` or `dy [m, n]`.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Sizes {
    pub m: usize,
    pub k: usize,
    pub n: usize,
}
