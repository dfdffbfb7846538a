//! Gate and up of a gated feed-forward block in one launch: `h = f(x · gate) · (x · up)`, and their gradients.
//!
//! A cube computes the same tile of both products and combines them in registers, so that neither is ever
//! stored. The backward kernel computes them again from `x`, as on the host. What is left of the block are
//! products with one weight: [`spmm`](super::spmm()) by `down`, and the verbs of its gradients.

mod kernel;
mod launch;
pub(super) mod task;

pub(super) use launch::Buffers;
pub use launch::{gated_hidden, gated_hidden_backward};
