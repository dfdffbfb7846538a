//! Tiles: the part of a product that one cube computes, its numbers and its device code.

pub mod cmma;
pub mod mma;
pub mod unit;
