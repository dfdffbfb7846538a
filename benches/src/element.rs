//! Data types of the problems.

use std::fmt;

use burn::tensor::{DType, Device, FloatDType, bf16, f16};
use burn_blast_kernels::reference::Rounding;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

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
    /// Name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// Burn's type of inputs and of the dense weight.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 | Self::Int8 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Whether `device` computes in this type.
    pub fn runs_on(self, device: &Device) -> bool {
        device.supports_dtype(match self {
            Self::F32 | Self::Int8 => FloatDType::F32,
            Self::F16 => FloatDType::F16,
            Self::Bf16 => FloatDType::BF16,
        })
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
        f.pad(self.name())
    }
}
