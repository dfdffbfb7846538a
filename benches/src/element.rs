//! Data types of the problems.

use burn::tensor::{DType, Device, FloatDType, bf16, f16};
use burn_blast_kernels::reference::Rounding;
use clap::ValueEnum;

/// Storage type of a weight and, except for integers, of the input.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// Every type, in the order of the catalogue.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Bf16, Self::Int8];

    /// Name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// The type with this [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|element| element.name() == name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_found_by_its_name() {
        for element in Element::ALL {
            assert_eq!(Element::from_name(element.name()), Some(element));
        }
        assert_eq!(Element::from_name("int4"), None);
    }
}
