//! `xᵀ · dy` at the kept blocks on tensor cores.

pub(in crate::cube) mod base;
pub(super) mod catalogue;
pub(super) mod kernel;
mod launch;

pub(crate) use base::select;
pub(crate) use launch::launch;
