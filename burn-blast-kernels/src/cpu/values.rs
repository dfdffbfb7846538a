//! Packed values in their storage type, and their conversion to `f32`.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Packed values `[nnz, b, b]` in their storage type; arithmetic is always `f32`.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Half precision.
    F16(&'a [f16]),
    /// Brain floating point.
    Bf16(&'a [bf16]),
    /// 8-bit integers with one scale per block.
    Int8 {
        /// `[nnz, b, b]`.
        values: &'a [i8],
        /// `[nnz]`.
        scales: &'a [f32],
    },
}

impl Values<'_> {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Values::F32(values) => values.len(),
            Values::F16(values) => values.len(),
            Values::Bf16(values) => values.len(),
            Values::Int8 { values, .. } => values.len(),
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes block `slot` to `to`, which has the length of a block.
    #[inline(always)]
    pub(super) fn widen(&self, slot: usize, to: &mut [f32]) {
        let at = slot * to.len()..(slot + 1) * to.len();
        match self {
            Values::F32(values) => to.copy_from_slice(&values[at]),
            // By a conversion instruction, where the machine has one.
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
