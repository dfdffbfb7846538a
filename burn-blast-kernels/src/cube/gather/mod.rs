//! Dense weights to packed values and back.

mod kernel;
mod launch;

pub(super) use launch::{launch_pack, launch_unpack};

/// Slot number of a block that is not kept.
const ABSENT: u32 = u32::MAX;
