//! Tiles: the part of a product that one cube computes, its numbers and its device code.

pub(super) mod cmma;
pub(super) mod mma;
pub(super) mod unit;
