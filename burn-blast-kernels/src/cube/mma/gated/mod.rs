//! Gate and up of a gated feed-forward block in one launch, on tensor cores.

pub(super) mod base;
pub(super) mod catalogue;
pub(super) mod kernel;
mod launch;

pub(crate) use base::select;
pub(crate) use launch::launch;
