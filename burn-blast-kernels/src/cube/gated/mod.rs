//! Gate and up of a gated feed-forward block in one launch: `h = f(x · gate) · (x · up)`, and their gradients.
//!
//! A cube computes the same tile of both products and combines them in registers, so that neither is ever stored. The
//! backward kernel re-computes them from `x`, as on the host. The rest of the block are products with one weight.

use cubecl::prelude::*;

use crate::Activation;
use crate::BlockPattern;

pub(super) mod launch;
pub(super) mod task;
pub(super) mod unit;

/// Tensor cores.
pub(super) mod mma {
    pub(crate) mod base;
    pub(crate) mod kernel;
}

/// The tensors of one launch on `m` rows. The pattern of the gate is the one of the context.
pub(super) struct Tensors<'a> {
    pub up: &'a BlockPattern,
    pub activation: Activation,
    pub x: BufferArg,
    /// Of gate and up.
    pub values: [BufferArg; 2],
    pub h: BufferArg,
    /// Of the products with gate and up; then `h` holds its gradient.
    pub gradients: Option<(BufferArg, BufferArg)>,
    pub m: usize,
}
