//! The register tile all host products are made of.

use macerator::{Scalar, Simd, VMulAdd, Vector};
use macerator::{vload_low, vload_unaligned, vstore_low, vstore_unaligned};

/// Where the scalar operand of a tile lies: element `(row, k)` is at `row * row_stride + k * k_stride`.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub(super) ptr: *const f32,
    pub(super) row_stride: usize,
    pub(super) k_stride: usize,
}

/// `MR` rows by `NV` vectors of sums kept in registers. With `HALF` only the lower half of each vector
/// is read and written: a block of 8 on a machine with 16 lanes.
pub(super) struct Tile<S: Simd, const MR: usize, const NV: usize, const HALF: bool>(
    [[Vector<S, f32>; NV]; MR],
);

/// Elements of one vector that a tile uses.
#[inline(always)]
pub(super) fn used_lanes<S: Simd, const HALF: bool>() -> usize {
    if HALF { f32::lanes::<S>() / 2 } else { f32::lanes::<S>() }
}

/// # Safety
/// `used_lanes` elements must be readable at `ptr`.
#[inline(always)]
unsafe fn load<S: Simd, const HALF: bool>(ptr: *const f32) -> Vector<S, f32> {
    // SAFETY: the caller's.
    unsafe { if HALF { vload_low(ptr) } else { vload_unaligned(ptr) } }
}

impl<S: Simd, const MR: usize, const NV: usize, const HALF: bool> Tile<S, MR, NV, HALF> {
    #[inline(always)]
    pub(super) fn zero() -> Self {
        Self([[0.0_f32.splat::<S>(); NV]; MR])
    }

    /// Adds `Σ_k left[row, k] · right[k, ..]` over `depth` steps.
    ///
    /// # Safety
    /// `left` must hold `MR` rows of `depth` elements, `right` `depth` rows, `right_stride` apart, of
    /// `NV` vectors.
    #[inline(always)]
    pub(super) unsafe fn accumulate(
        &mut self,
        left: Left,
        right: *const f32,
        right_stride: usize,
        depth: usize,
    ) {
        let lanes = used_lanes::<S, HALF>();
        for k in 0..depth {
            // SAFETY: within the caller's bounds.
            unsafe {
                let row = right.add(k * right_stride);
                let mut vectors = [0.0_f32.splat::<S>(); NV];
                for (v, vector) in vectors.iter_mut().enumerate() {
                    *vector = load::<S, HALF>(row.add(v * lanes));
                }
                let column = left.ptr.add(k * left.k_stride);
                for (m, sums) in self.0.iter_mut().enumerate() {
                    let scalar = (*column.add(m * left.row_stride)).splat::<S>();
                    for (sum, &vector) in sums.iter_mut().zip(&vectors) {
                        *sum = f32::vmul_add(scalar, vector, *sum);
                    }
                }
            }
        }
    }

    /// Adds `bias` to every row.
    ///
    /// # Safety
    /// `bias` must hold `NV` vectors.
    #[inline(always)]
    pub(super) unsafe fn add_bias(&mut self, bias: *const f32) {
        for v in 0..NV {
            // SAFETY: within the caller's bounds.
            let vector = unsafe { load::<S, HALF>(bias.add(v * used_lanes::<S, HALF>())) };
            for sums in &mut self.0 {
                sums[v] += vector;
            }
        }
    }

    /// Adds what `out` holds.
    ///
    /// # Safety
    /// `out` must hold `MR` rows, `stride` apart, of `NV` vectors.
    #[inline(always)]
    pub(super) unsafe fn add(&mut self, out: *const f32, stride: usize) {
        let lanes = used_lanes::<S, HALF>();
        for (m, sums) in self.0.iter_mut().enumerate() {
            for (v, sum) in sums.iter_mut().enumerate() {
                // SAFETY: within the caller's bounds.
                *sum += unsafe { load::<S, HALF>(out.add(m * stride + v * lanes)) };
            }
        }
    }

    /// Writes the sums.
    ///
    /// # Safety
    /// `out` must hold `MR` rows, `stride` apart, of `NV` vectors.
    #[inline(always)]
    pub(super) unsafe fn store(self, out: *mut f32, stride: usize) {
        let lanes = used_lanes::<S, HALF>();
        for (m, sums) in self.0.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                // SAFETY: within the caller's bounds.
                let to = unsafe { out.add(m * stride + v * lanes) };
                unsafe { if HALF { vstore_low(to, sum) } else { vstore_unaligned(to, sum) } };
            }
        }
    }
}
