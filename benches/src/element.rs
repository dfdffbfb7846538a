//! Data types of the problems, and their random values, which can be re-computed one by one, so that the check of a
//! large problem needs no copy of it.

use std::fmt;

use burn::tensor::{DType, bf16, f16};
use burn_blast_kernels::reference::Rounding;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::record::Verb;

/// Storage type of a weight and, except for integers, of the input.
#[derive(
    ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum Element {
    /// 32 bits.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an `f32`.
    Bf16,
    /// Integers with one scale per block; inputs and dense layer are in `f32`. Forward products only.
    Int8,
}

impl Element {
    /// Burn's type of inputs and of the dense weight.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 | Self::Int8 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Whether there are problems of `verb` in this type.
    pub fn is_timed(self, verb: Verb) -> bool {
        match self {
            Self::F32 => true,
            // Training in half precision needs a second copy of the weights in f32, which neither side has.
            Self::F16 | Self::Bf16 => verb != Verb::Step,
            Self::Int8 => verb == Verb::Forward,
        }
    }

    /// Bytes per value of the weight.
    pub fn bytes(self) -> usize {
        if self == Self::Int8 { 1 } else { self.dtype().size() }
    }

    /// Rounding of a kernel that reads and writes this type.
    pub fn rounding(self) -> Rounding {
        match self {
            Self::F32 | Self::Int8 => Rounding::F32,
            Self::F16 => Rounding::F16,
            Self::Bf16 => Rounding::BF16,
        }
    }

    /// The nearest value of this type; weights of integers are quantised later.
    pub fn round(self, number: f32) -> f32 {
        match self {
            Self::F32 | Self::Int8 => number,
            Self::F16 => f16::from_f32(number).to_f32(),
            Self::Bf16 => bf16::from_f32(number).to_f32(),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.to_possible_value().expect("no type is hidden").get_name())
    }
}

/// Pseudorandom values, uniform in `[-scale, scale)`, each a function of its index.
#[derive(Debug, Clone, Copy)]
pub struct SeededValues {
    seed: u64,
    scale: f32,
    /// The type they can be stored as.
    pub element: Element,
}

impl SeededValues {
    /// Values that can be stored as `element` without rounding.
    pub fn new(seed: u64, scale: f32, element: Element) -> Self {
        Self { seed: hash(seed), scale, element }
    }

    /// The value at an index.
    pub fn at(&self, index: usize) -> f32 {
        // 24 bits, the precision of an f32.
        let bits = hash(self.seed.wrapping_add(index as u64)) >> 40;
        let uniform = bits as f32 / (1 << 23) as f32 - 1.0;
        self.element.round(uniform * self.scale)
    }
}

/// SplitMix64's output of the `index`-th state (Steele, Lea, Flood: "Fast splittable pseudorandom number generators",
/// 2014).
pub fn hash(index: u64) -> u64 {
    let mut bits = index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fill_their_range_evenly() {
        let values = SeededValues::new(3, 2.0, Element::F32);
        let all: Vec<f64> = (0..10_000).map(|index| f64::from(values.at(index))).collect();
        let mean = all.iter().sum::<f64>() / 1e4;
        let square = all.iter().map(|number| number * number).sum::<f64>() / 1e4;
        assert!(all.iter().all(|number| (-2.0..2.0).contains(number)));
        assert!(mean.abs() < 0.05, "{mean}");
        assert!((square - 4.0 / 3.0).abs() < 0.05, "{square}");
    }

    #[test]
    fn values_are_stored_exactly() {
        let values = SeededValues::new(3, 1.0, Element::Bf16);
        assert!((0..100).all(|index| values.at(index) == Element::Bf16.round(values.at(index))));
    }
}
