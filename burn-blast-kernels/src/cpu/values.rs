//! Storage types of the host kernels, and their conversion to `f32`.

use std::any::TypeId;
use std::borrow::Cow;
use std::mem::MaybeUninit;

use half::slice::HalfFloatSliceExt;
use half::vec::HalfFloatVecExt;
use half::{bf16, f16};

use super::dot::{has_dot_products, round};
use super::int4::{int4_block_len, widen_block};
use crate::BlockSize;

/// Packed values `[nnz, b, b]` in their storage type.
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
    /// 4-bit integers, two in a byte, as [`quantize_int4`](super::quantize_int4) makes them.
    Int4 {
        /// [`int4_block_len`](super::int4_block_len) for each block.
        bytes: &'a [i8],
        /// Size of the blocks.
        block: BlockSize,
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
            Values::Int4 { bytes, block } => bytes.len() / int4_block_len(*block) * block.area(),
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes block `slot` to `to`, which has the length of a block.
    #[inline(always)]
    pub(super) fn widen(&self, slot: usize, to: &mut [f32]) {
        let start = slot * to.len();
        match self {
            Values::Int8 { values, scales } => {
                let scale = scales[slot];
                for (to, &from) in to.iter_mut().zip(&values[start..]) {
                    *to = f32::from(from) * scale;
                }
            }
            Values::Int4 { bytes, block } => {
                let len = int4_block_len(*block);
                widen_block(&bytes[slot * len..][..len], block.get(), to);
            }
            floats => floats.widen_at(start, to),
        }
    }

    /// Fills `to` with the elements from `start` on. Integers are not multiplied by their scale.
    #[inline(always)]
    pub(super) fn widen_at(&self, start: usize, to: &mut [f32]) {
        let at = start..start + to.len();
        match self {
            Values::F32(values) => to.copy_from_slice(&values[at]),
            // By a conversion instruction, where the machine has one.
            Values::F16(values) => values[at].convert_to_f32_slice(to),
            Values::Bf16(values) => {
                for (to, from) in to.iter_mut().zip(&values[at]) {
                    *to = f32::from_bits(u32::from(from.to_bits()) << 16);
                }
            }
            Values::Int8 { values, .. } => {
                for (to, &from) in to.iter_mut().zip(&values[at]) {
                    *to = f32::from(from);
                }
            }
            Values::Int4 { .. } => unreachable!("4-bit integers are read by blocks"),
        }
    }
}

/// Rounds to nearest, ties to even. It is free of branches, so that loops over it vectorise.
#[inline(always)]
pub(super) fn rounded(x: f32) -> bf16 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    bf16::from_bits(if x.is_nan() { quiet } else { nearest } as u16)
}

/// A floating-point type that weights and inputs may be stored in. Sums are always `f32`.
pub trait HostFloat: Copy + Default + Send + Sync + 'static {
    /// Converts a slice to `f32`; borrows it if it is `f32`.
    fn widen(slice: &[Self]) -> Cow<'_, [f32]>;
    /// Rounds a result to the storage type; returns it unchanged for `f32`.
    fn narrow(result: Vec<f32>) -> Vec<Self>;
    /// Rounds sums to the storage type, one element each. Subnormal sums may become zero.
    fn write(sums: &[f32], to: &mut [MaybeUninit<Self>]);
    /// The slice as packed values.
    fn values(slice: &[Self]) -> Values<'_>;
}

/// `out` as memory for sums, if `T` is `f32`.
pub(super) fn as_f32<T: 'static>(out: *mut T) -> Option<*mut f32> {
    (TypeId::of::<T>() == TypeId::of::<f32>()).then_some(out.cast())
}

/// `out` as memory for rounded sums, if `T` is `bf16`.
pub(super) fn as_bf16<T: 'static>(out: *mut T) -> Option<*mut bf16> {
    (TypeId::of::<T>() == TypeId::of::<bf16>()).then_some(out.cast())
}

impl HostFloat for f32 {
    fn widen(slice: &[Self]) -> Cow<'_, [f32]> {
        Cow::Borrowed(slice)
    }

    fn narrow(result: Vec<f32>) -> Vec<Self> {
        result
    }

    #[inline(always)]
    fn write(sums: &[f32], to: &mut [MaybeUninit<Self>]) {
        to.write_copy_of_slice(sums);
    }

    fn values(slice: &[Self]) -> Values<'_> {
        Values::F32(slice)
    }
}

impl HostFloat for f16 {
    fn widen(slice: &[Self]) -> Cow<'_, [f32]> {
        Cow::Owned(slice.to_f32_vec())
    }

    fn narrow(result: Vec<f32>) -> Vec<Self> {
        Vec::from_f32_slice(&result)
    }

    #[inline(always)]
    fn write(sums: &[f32], to: &mut [MaybeUninit<Self>]) {
        // In pieces, so that a conversion instruction takes several at once.
        let mut piece = [f16::ZERO; 64];
        for (sums, to) in sums.chunks(piece.len()).zip(to.chunks_mut(piece.len())) {
            piece[..sums.len()].convert_from_f32_slice(sums);
            to.write_copy_of_slice(&piece[..sums.len()]);
        }
    }

    fn values(slice: &[Self]) -> Values<'_> {
        Values::F16(slice)
    }
}

impl HostFloat for bf16 {
    fn widen(slice: &[Self]) -> Cow<'_, [f32]> {
        Cow::Owned(slice.to_f32_vec())
    }

    fn narrow(result: Vec<f32>) -> Vec<Self> {
        result.into_iter().map(rounded).collect()
    }

    #[inline(always)]
    fn write(sums: &[f32], to: &mut [MaybeUninit<Self>]) {
        assert_eq!(sums.len(), to.len());
        if has_dot_products() {
            // SAFETY: that was the question.
            unsafe { round(sums, to) };
            return;
        }
        for (to, &sum) in to.iter_mut().zip(sums) {
            to.write(rounded(sum));
        }
    }

    fn values(slice: &[Self]) -> Values<'_> {
        Values::Bf16(slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_equals_the_half_crate() {
        for upper in 0..=u16::MAX {
            for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits(u32::from(upper) << 16 | lower);
                assert_eq!(rounded(x).to_bits(), bf16::from_f32(x).to_bits(), "{x:?}");
            }
        }
    }
}
