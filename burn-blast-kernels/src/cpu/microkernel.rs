//! The microkernel of all host products, a tile of sums in registers, and its shape for each block size and vector width.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_mm256_stream_ps, _mm512_stream_ps};
#[cfg(target_arch = "x86_64")]
use std::mem::transmute_copy;

use macerator::{Scalar, Simd, VMulAdd, Vector};
use macerator::{vload_low, vload_unaligned, vstore_low, vstore_unaligned};

/// Steps of the inner loop that are unrolled.
const UNROLL: usize = 4;

/// Compile-time strides of the operands. Element `(row, k)` of the left one is at `row * ROW + k * STEP`; row `k` of the
/// right one is at `k * RIGHT`.
pub(super) struct Strides<const ROW: usize, const STEP: usize, const RIGHT: usize>;

/// `MR` rows by `NV` vectors of sums in registers. With `HALF`, only the lower half of each vector is read and written,
/// for blocks of 8 on a machine with 16 lanes.
pub(super) struct RegisterTile<S: Simd, const MR: usize, const NV: usize, const HALF: bool>(
    [[Vector<S, f32>; NV]; MR],
);

/// Elements that a tile uses of each vector.
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

/// # Safety
/// `used_lanes` elements must be writable at `ptr`.
#[inline(always)]
unsafe fn store<S: Simd, const HALF: bool>(ptr: *mut f32, vector: Vector<S, f32>) {
    // SAFETY: the caller's.
    unsafe { if HALF { vstore_low(ptr, vector) } else { vstore_unaligned(ptr, vector) } }
}

impl<S: Simd, const MR: usize, const NV: usize, const HALF: bool> RegisterTile<S, MR, NV, HALF> {
    #[inline(always)]
    pub(super) fn zero() -> Self {
        Self([[0.0_f32.splat::<S>(); NV]; MR])
    }

    /// Adds `Σ_k left[row, k] · right[k, ..]` over `depth` steps.
    ///
    /// # Safety
    /// `left` must hold `MR` rows of `depth` elements, `right` `depth` rows of `NV` vectors.
    #[inline(always)]
    pub(super) unsafe fn accumulate<const ROW: usize, const STEP: usize, const RIGHT: usize>(
        &mut self,
        _: Strides<ROW, STEP, RIGHT>,
        left: *const f32,
        right: *const f32,
        depth: usize,
    ) {
        let whole = depth - depth % UNROLL;
        // Contiguous rows are followed by the rows of the next tile.
        let next = left.wrapping_add(MR * ROW);
        let mut k = 0;
        // SAFETY: within the caller's bounds.
        unsafe {
            while k < whole {
                for step in k..k + UNROLL {
                    if STEP == 1 {
                        prefetch(next.wrapping_add(step * MR));
                    }
                    self.step::<ROW>(left.add(step * STEP), right.add(step * RIGHT));
                }
                k += UNROLL;
            }
            while k < depth {
                self.step::<ROW>(left.add(k * STEP), right.add(k * RIGHT));
                k += 1;
            }
        }
    }

    /// Like [`accumulate`](Self::accumulate) with rows of `B` elements; also copies what it reads of `right` to `copy`.
    ///
    /// # Safety
    /// As [`accumulate`](Self::accumulate); `copy` must have the length of `right`.
    #[inline(always)]
    pub(super) unsafe fn accumulate_copying<const B: usize>(
        &mut self,
        left: *const f32,
        right: *const f32,
        copy: *mut f32,
        depth: usize,
    ) {
        for k in 0..depth {
            // SAFETY: the caller's.
            unsafe {
                self.step::<B>(left.add(k), right.add(k * B));
                for v in 0..NV {
                    let at = k * B + v * used_lanes::<S, HALF>();
                    store::<S, HALF>(copy.add(at), load::<S, HALF>(right.add(at)));
                }
            }
        }
    }

    /// # Safety
    /// As [`accumulate`](Self::accumulate), for one step.
    #[inline(always)]
    unsafe fn step<const ROW: usize>(&mut self, left: *const f32, right: *const f32) {
        let mut vectors = [0.0_f32.splat::<S>(); NV];
        for (v, vector) in vectors.iter_mut().enumerate() {
            // SAFETY: the caller's.
            *vector = unsafe { load::<S, HALF>(right.add(v * used_lanes::<S, HALF>())) };
        }
        for (m, sums) in self.0.iter_mut().enumerate() {
            // SAFETY: the caller's.
            let scalar = unsafe { (*left.add(m * ROW)).splat::<S>() };
            for (sum, &vector) in sums.iter_mut().zip(&vectors) {
                *sum = f32::vmul_add(scalar, vector, *sum);
            }
        }
    }

    /// Adds the content of `out` to the sums.
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
                unsafe { store::<S, HALF>(out.add(m * stride + v * lanes), sum) };
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

    /// Writes the sums with non-temporal stores, where the machine has them. With ordinary stores, an output larger than
    /// the caches would be read into them first and evict the operands.
    ///
    /// # Safety
    /// As [`store`](Self::store), with `out` and `stride` at multiples of a cache line, and a [fence](stream_fence)
    /// before another thread reads.
    #[inline(always)]
    pub(super) unsafe fn stream(self, out: *mut f32, stride: usize) {
        #[cfg(target_arch = "x86_64")]
        if !HALF && f32::lanes::<S>() >= 8 {
            let lanes = f32::lanes::<S>();
            for (m, sums) in self.0.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    // SAFETY: the caller's; a vector of this many lanes is this register.
                    unsafe {
                        let to = out.add(m * stride + v * lanes);
                        if lanes == 16 {
                            _mm512_stream_ps(to, transmute_copy(&sum));
                        } else {
                            _mm256_stream_ps(to, transmute_copy(&sum));
                        }
                    }
                }
            }
            return;
        }
        // SAFETY: the caller's.
        unsafe { self.store(out, stride) };
    }
}

/// Calls a function with the block size and tile shape for a number of lanes. A tile has enough independent sums to hide
/// the latency of a multiply-add, and fits the registers: 32 with 16 lanes and on NEON, 16 elsewhere.
macro_rules! with_tile_shape {
    ($simd:ident, $b:expr, $function:ident $arguments:tt) => {
        match (<f32 as macerator::Scalar>::lanes::<$simd>(), $b) {
            (16, 8) => $function::<$simd, 8, 16, 1, true> $arguments,
            (16, 16) => $function::<$simd, 16, 16, 1, false> $arguments,
            (16, 32) => $function::<$simd, 32, 12, 2, false> $arguments,
            (16, 64) => $function::<$simd, 64, 6, 4, false> $arguments,
            (16, _) => $function::<$simd, 128, 6, 4, false> $arguments,
            (8, 8) => $function::<$simd, 8, 8, 1, false> $arguments,
            (8, 16) => $function::<$simd, 16, 6, 2, false> $arguments,
            (8, 32) => $function::<$simd, 32, 6, 2, false> $arguments,
            (8, 64) => $function::<$simd, 64, 6, 2, false> $arguments,
            (8, _) => $function::<$simd, 128, 6, 2, false> $arguments,
            (4, 8) => $function::<$simd, 8, 8, 2, false> $arguments,
            (4, 16) => $function::<$simd, 16, 6, 4, false> $arguments,
            (4, 32) => $function::<$simd, 32, 6, 4, false> $arguments,
            (4, 64) => $function::<$simd, 64, 6, 4, false> $arguments,
            (4, _) => $function::<$simd, 128, 6, 4, false> $arguments,
            (_, 8) => $function::<$simd, 8, 2, 8, false> $arguments,
            (_, 16) => $function::<$simd, 16, 2, 8, false> $arguments,
            (_, 32) => $function::<$simd, 32, 2, 8, false> $arguments,
            (_, 64) => $function::<$simd, 64, 2, 8, false> $arguments,
            (_, _) => $function::<$simd, 128, 2, 8, false> $arguments,
        }
    };
}
pub(super) use with_tile_shape;

/// Prefetches the cache line at `ptr`, if there is one, into the second-level cache.
#[inline(always)]
fn prefetch(ptr: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of every x86-64; an invalid address has no effect.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(ptr.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = ptr;
}

/// Orders the stores of [`RegisterTile::stream`] before all later stores, for other threads.
pub(super) fn stream_fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of every x86-64.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}
