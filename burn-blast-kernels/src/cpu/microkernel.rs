//! The microkernel of all host products, a tile of sums in registers, and its shape for each block size and vector width.

use super::arithmetic::Arithmetic;

/// Steps of the inner loop that are unrolled.
const UNROLL: usize = 4;

/// Strides of the operands, in words: constants after inlining. Word `(row, k)` of the left one is at
/// `row * self.row + k * self.step`; row `k` of the right one is at `k * self.right`.
#[derive(Clone, Copy)]
pub(super) struct Strides {
    pub(super) row: usize,
    pub(super) step: usize,
    pub(super) right: usize,
}

/// `MR` rows by `NV` vectors of sums in registers. With `HALF`, only the lower half of each vector is read and written,
/// for blocks of 8 on a machine with 16 lanes.
pub(super) struct RegisterTile<A: Arithmetic, const MR: usize, const NV: usize, const HALF: bool>(
    [[A::Vector; NV]; MR],
);

/// Elements that a tile uses of each vector.
#[inline(always)]
pub(super) fn used_lanes<A: Arithmetic, const HALF: bool>() -> usize {
    if HALF { A::lanes() / 2 } else { A::lanes() }
}

impl<A: Arithmetic, const MR: usize, const NV: usize, const HALF: bool>
    RegisterTile<A, MR, NV, HALF>
{
    #[inline(always)]
    pub(super) fn zero() -> Self {
        Self([[A::splat(0.0); NV]; MR])
    }

    /// Every row as at `row`.
    ///
    /// # Safety
    /// `row` must hold `NV` vectors.
    #[inline(always)]
    pub(super) unsafe fn rows(row: *const f32) -> Self {
        let mut vectors = [A::splat(0.0); NV];
        for (v, vector) in vectors.iter_mut().enumerate() {
            // SAFETY: the caller's.
            *vector = unsafe { A::load::<HALF>(row.add(v * used_lanes::<A, HALF>())) };
        }
        Self([vectors; MR])
    }

    /// Adds sums of integers, times `scale` and the scale of each row.
    ///
    /// # Safety
    /// `rows` must hold `MR` scales, `stride` apart.
    #[inline(always)]
    pub(super) unsafe fn add_scaled(
        &mut self,
        integers: &Self,
        scale: f32,
        rows: *const f32,
        stride: usize,
    ) {
        for (m, (sums, integers)) in self.0.iter_mut().zip(&integers.0).enumerate() {
            // SAFETY: the caller's.
            let scale = A::splat(scale * unsafe { *rows.add(m * stride) });
            for (sum, &integer) in sums.iter_mut().zip(integers) {
                *sum = A::add_scaled(integer, scale, *sum);
            }
        }
    }

    /// Adds `Σ_k left[row, k] · right[k, ..]` over `depth` steps.
    ///
    /// # Safety
    /// `left` must hold `MR` rows of `depth` words, `right` `depth` rows of `NV` vectors.
    #[inline(always)]
    pub(super) unsafe fn accumulate(
        &mut self,
        strides: Strides,
        left: *const f32,
        right: *const f32,
        depth: usize,
    ) {
        let whole = depth - depth % UNROLL;
        // Contiguous rows are followed by the rows of the next tile.
        let next = left.wrapping_add(MR * strides.row);
        let mut k = 0;
        // SAFETY: within the caller's bounds.
        unsafe {
            while k < whole {
                for step in k..k + UNROLL {
                    if strides.step == 1 {
                        prefetch(next.wrapping_add(step * MR));
                    }
                    self.step(
                        strides,
                        left.add(step * strides.step),
                        right.add(step * strides.right),
                    );
                }
                k += UNROLL;
            }
            while k < depth {
                self.step(strides, left.add(k * strides.step), right.add(k * strides.right));
                k += 1;
            }
        }
    }

    /// Like [`accumulate`](Self::accumulate); also copies what it reads of `right` to `copy`.
    ///
    /// # Safety
    /// As [`accumulate`](Self::accumulate); `copy` must have the length of `right`.
    #[inline(always)]
    pub(super) unsafe fn accumulate_copying(
        &mut self,
        strides: Strides,
        left: *const f32,
        right: *const f32,
        copy: *mut f32,
        depth: usize,
    ) {
        for k in 0..depth {
            // SAFETY: the caller's.
            unsafe {
                self.step(strides, left.add(k * strides.step), right.add(k * strides.right));
                for v in 0..NV {
                    let at = k * strides.right + v * used_lanes::<A, HALF>();
                    A::store::<HALF>(copy.add(at), A::load::<HALF>(right.add(at)));
                }
            }
        }
    }

    /// # Safety
    /// As [`accumulate`](Self::accumulate), for one step.
    #[inline(always)]
    unsafe fn step(&mut self, strides: Strides, left: *const f32, right: *const f32) {
        let mut vectors = [A::splat(0.0); NV];
        for (v, vector) in vectors.iter_mut().enumerate() {
            // SAFETY: the caller's.
            *vector = unsafe { A::load::<HALF>(right.add(v * used_lanes::<A, HALF>())) };
        }
        for (m, sums) in self.0.iter_mut().enumerate() {
            // SAFETY: the caller's.
            let word = unsafe { A::splat(*left.add(m * strides.row)) };
            for (sum, &vector) in sums.iter_mut().zip(&vectors) {
                *sum = A::multiply_add(word, vector, *sum);
            }
        }
    }

    /// Adds the content of `out` to the sums.
    ///
    /// # Safety
    /// `out` must hold `MR` rows, `stride` apart, of `NV` vectors.
    #[inline(always)]
    pub(super) unsafe fn add(&mut self, out: *const f32, stride: usize) {
        let lanes = used_lanes::<A, HALF>();
        for (m, sums) in self.0.iter_mut().enumerate() {
            for (v, sum) in sums.iter_mut().enumerate() {
                // SAFETY: within the caller's bounds.
                *sum = unsafe { A::add(*sum, A::load::<HALF>(out.add(m * stride + v * lanes))) };
            }
        }
    }

    /// Writes the sums.
    ///
    /// # Safety
    /// `out` must hold `MR` rows, `stride` apart, of `NV` vectors.
    #[inline(always)]
    pub(super) unsafe fn store(self, out: *mut f32, stride: usize) {
        let lanes = used_lanes::<A, HALF>();
        for (m, sums) in self.0.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                // SAFETY: within the caller's bounds.
                unsafe { A::store::<HALF>(out.add(m * stride + v * lanes), sum) };
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
            let vector = unsafe { A::load::<HALF>(bias.add(v * used_lanes::<A, HALF>())) };
            for sums in &mut self.0 {
                sums[v] = A::add(sums[v], vector);
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
        if HALF {
            // SAFETY: the caller's.
            return unsafe { self.store(out, stride) };
        }
        for (m, sums) in self.0.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                // SAFETY: within the caller's bounds.
                unsafe { A::stream(out.add(m * stride + v * A::lanes()), sum) };
            }
        }
    }
}

/// Calls a function with the block size and tile shape for a number of lanes. A tile has enough independent sums to hide
/// the latency of a multiply-add, and fits the registers: 32 with 16 lanes and on NEON, 16 elsewhere. Integers need twice
/// the sums, of a block and of all blocks.
macro_rules! with_tile_shape {
    ($arithmetic:ident, $b:expr, $function:ident $arguments:tt) => {
        match ($arithmetic::WORDS, $arithmetic::lanes(), $b) {
            (Words::Quad, 16, 8) => $function::<$arithmetic, 8, 8, 1, true> $arguments,
            (Words::Quad, 16, 16) => $function::<$arithmetic, 16, 8, 1, false> $arguments,
            (Words::Quad, 16, 32) => $function::<$arithmetic, 32, 6, 2, false> $arguments,
            (Words::Quad, 16, 64) => $function::<$arithmetic, 64, 3, 4, false> $arguments,
            (Words::Quad, 16, _) => $function::<$arithmetic, 128, 3, 4, false> $arguments,
            (_, 16, 8) => $function::<$arithmetic, 8, 16, 1, true> $arguments,
            (_, 16, 16) => $function::<$arithmetic, 16, 16, 1, false> $arguments,
            (_, 16, 32) => $function::<$arithmetic, 32, 12, 2, false> $arguments,
            (_, 16, 64) => $function::<$arithmetic, 64, 6, 4, false> $arguments,
            (_, 16, _) => $function::<$arithmetic, 128, 6, 4, false> $arguments,
            (_, 8, 8) => $function::<$arithmetic, 8, 8, 1, false> $arguments,
            (_, 8, 16) => $function::<$arithmetic, 16, 6, 2, false> $arguments,
            (_, 8, 32) => $function::<$arithmetic, 32, 6, 2, false> $arguments,
            (_, 8, 64) => $function::<$arithmetic, 64, 6, 2, false> $arguments,
            (_, 8, _) => $function::<$arithmetic, 128, 6, 2, false> $arguments,
            (_, 4, 8) => $function::<$arithmetic, 8, 8, 2, false> $arguments,
            (_, 4, 16) => $function::<$arithmetic, 16, 6, 4, false> $arguments,
            (_, 4, 32) => $function::<$arithmetic, 32, 6, 4, false> $arguments,
            (_, 4, 64) => $function::<$arithmetic, 64, 6, 4, false> $arguments,
            (_, 4, _) => $function::<$arithmetic, 128, 6, 4, false> $arguments,
            (_, _, 8) => $function::<$arithmetic, 8, 2, 8, false> $arguments,
            (_, _, 16) => $function::<$arithmetic, 16, 2, 8, false> $arguments,
            (_, _, 32) => $function::<$arithmetic, 32, 2, 8, false> $arguments,
            (_, _, 64) => $function::<$arithmetic, 64, 2, 8, false> $arguments,
            (_, _, _) => $function::<$arithmetic, 128, 2, 8, false> $arguments,
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
