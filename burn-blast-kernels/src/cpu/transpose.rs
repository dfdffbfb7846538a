//! Transposition of blocks, for the input gradient.

/// Side of the squares that are transposed at once: a row fills an AVX2 register.
const SIDE: usize = 8;

/// Writes the transposed block `from` to `to`, both `[b, b]`.
///
/// # Panics
/// If a slice has another length.
pub(super) fn transpose(from: &[f32], to: &mut [f32], b: usize) {
    assert!(from.len() == b * b && to.len() == b * b && b.is_multiple_of(SIDE));
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 was detected, and the lengths were checked.
        unsafe { avx2::transpose(from.as_ptr(), to.as_mut_ptr(), b) };
        return;
    }
    // By squares, so that reads and writes stay within a few cache lines.
    for row in (0..b).step_by(SIDE) {
        for col in (0..b).step_by(SIDE) {
            for r in row..row + SIDE {
                for c in col..col + SIDE {
                    to[c * b + r] = from[r * b + c];
                }
            }
        }
    }
}

/// macerator has no shuffles, so this routine uses intrinsics.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::SIDE;

    /// # Safety
    /// Both hold `b * b` floats, and `b` is a multiple of 8.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn transpose(from: *const f32, to: *mut f32, b: usize) {
        // In this order, rows of the result are completed one after the other.
        for col in (0..b).step_by(SIDE) {
            for row in (0..b).step_by(SIDE) {
                // SAFETY: the squares are inside the block.
                unsafe { square(from.add(row * b + col), to.add(col * b + row), b) };
            }
        }
    }

    /// Transposes a square of 8 x 8, with rows `stride` apart on both sides.
    ///
    /// # Safety
    /// Both hold eight rows of eight floats.
    #[target_feature(enable = "avx2")]
    unsafe fn square(from: *const f32, to: *mut f32, stride: usize) {
        // Loads halves of rows `r` and `r + 4` side by side, so that halves are exchanged by loads and not by shuffles.
        let halves = |r: usize, at: usize| {
            // SAFETY: the caller's.
            unsafe {
                let low = _mm_loadu_ps(from.add(r * stride + at));
                let high = _mm_loadu_ps(from.add((r + 4) * stride + at));
                _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(low), high)
            }
        };
        for at in [0, 4] {
            let rows = [halves(0, at), halves(1, at), halves(2, at), halves(3, at)];
            let low01 = _mm256_unpacklo_ps(rows[0], rows[1]);
            let high01 = _mm256_unpackhi_ps(rows[0], rows[1]);
            let low23 = _mm256_unpacklo_ps(rows[2], rows[3]);
            let high23 = _mm256_unpackhi_ps(rows[2], rows[3]);
            let transposed = [
                _mm256_shuffle_ps::<0x44>(low01, low23),
                _mm256_shuffle_ps::<0xee>(low01, low23),
                _mm256_shuffle_ps::<0x44>(high01, high23),
                _mm256_shuffle_ps::<0xee>(high01, high23),
            ];
            for (c, row) in transposed.into_iter().enumerate() {
                // SAFETY: the caller's.
                unsafe { _mm256_storeu_ps(to.add((at + c) * stride), row) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_in_its_transposed_place() {
        for b in [8, 16, 32, 64, 128] {
            let block: Vec<f32> = (0..b * b).map(|at| at as f32).collect();
            let mut transposed = vec![f32::NAN; b * b];
            transpose(&block, &mut transposed, b);
            for r in 0..b {
                for c in 0..b {
                    assert_eq!(transposed[c * b + r], block[r * b + c], "block {b}");
                }
            }
        }
    }
}
