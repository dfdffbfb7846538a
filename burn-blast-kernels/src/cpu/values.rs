//! Packed values as they are stored, and blocks of them as `f32`.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Packed values `[nnz, b, b]` in their storage type; arithmetic is always `f32`.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    /// Used as they are.
    F32(&'a [f32]),
    /// Half precision.
    F16(&'a [f16]),
    /// The upper half of an `f32`.
    Bf16(&'a [bf16]),
    /// Integers times one scale a block, `[nnz]`.
    Int8 {
        /// `[nnz, b, b]`.
        values: &'a [i8],
        /// `[nnz]`.
        scales: &'a [f32],
    },
}

impl Values<'_> {
    /// How many values there are.
    pub fn len(&self) -> usize {
        match self {
            Values::F32(values) => values.len(),
            Values::F16(values) => values.len(),
            Values::Bf16(values) => values.len(),
            Values::Int8 { values, .. } => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Block `slot` as `f32`; its length is that of `to`.
    #[inline(always)]
    pub(super) fn widen(&self, slot: usize, to: &mut [f32]) {
        let at = slot * to.len()..(slot + 1) * to.len();
        match self {
            Values::F32(values) => to.copy_from_slice(&values[at]),
            // Converted by the instruction for it, where the machine has one.
            Values::F16(values) => values[at].convert_to_f32_slice(to),
            Values::Bf16(values) => {
                for (to, from) in to.iter_mut().zip(&values[at]) {
                    *to = f32::from_bits(u32::from(from.to_bits()) << 16);
                }
            }
            Values::Int8 { values, scales } => {
                let scale = scales[slot];
                for (to, &from) in to.iter_mut().zip(&values[at]) {
                    *to = f32::from(from) * scale;
                }
            }
        }
    }
}
