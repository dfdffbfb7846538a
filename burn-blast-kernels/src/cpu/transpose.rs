//! Transposition of blocks, for the input gradient.

/// Side of the squares that are transposed at once: a row fills an AVX2 register.
const SIDE: usize = 8;

/// Writes the transpose of `from [rows, cols]` to `to`.
///
/// # Panics
/// If a slice has another length.
pub(super) fn transpose(from: &[f32], to: &mut [f32], [rows, cols]: [usize; 2]) {
    assert!(from.len() == rows * cols && to.len() == rows * cols);
    #[cfg(target_arch = "x86_64")]
    if rows.is_multiple_of(SIDE)
        && cols.is_multiple_of(SIDE)
        && std::arch::is_x86_feature_detected!("avx2")
    {
        // SAFETY: AVX2 was detected, and the sizes were checked.
        unsafe { avx2::transpose(from.as_ptr(), to.as_mut_ptr(), [rows, cols]) };
        return;
    }
    // By squares, so that reads and writes stay within a few cache lines.
    for row in (0..rows).step_by(SIDE) {
        for col in (0..cols).step_by(SIDE) {
            for r in row..rows.min(row + SIDE) {
                for c in col..cols.min(col + SIDE) {
                    to[c * rows + r] = from[r * cols + c];
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
    /// Both hold `rows * cols` floats, and both sides are multiples of 8.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn transpose(from: *const f32, to: *mut f32, [rows, cols]: [usize; 2]) {
        // In this order, rows of the result are completed one after the other.
        for col in (0..cols).step_by(SIDE) {
            for row in (0..rows).step_by(SIDE) {
                // SAFETY: the squares are inside the block.
                unsafe {
                    square(from.add(row * cols + col), to.add(col * rows + row), [cols, rows])
                };
            }
        }
    }

    /// Transposes a square of 8 x 8, with rows `stride` and `to_stride` apart.
    ///
    /// # Safety
    /// Both hold eight rows of eight floats.
    #[target_feature(enable = "avx2")]
    unsafe fn square(from: *const f32, to: *mut f32, [stride, to_stride]: [usize; 2]) {
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
                unsafe { _mm256_storeu_ps(to.add((at + c) * to_stride), row) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_in_its_transposed_place() {
        for (rows, cols) in [(8, 8), (8, 4), (16, 8), (32, 32), (64, 32), (128, 128)] {
            let block: Vec<f32> = (0..rows * cols).map(|at| at as f32).collect();
            let mut transposed = vec![f32::NAN; rows * cols];
            transpose(&block, &mut transposed, [rows, cols]);
            for r in 0..rows {
                for c in 0..cols {
                    assert_eq!(transposed[c * rows + r], block[r * cols + c], "{rows} x {cols}");
                }
            }
        }
    }
}
