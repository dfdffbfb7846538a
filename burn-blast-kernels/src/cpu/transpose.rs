//! Blocks turned for the input gradient.

/// Side of the squares a block is turned by: one AVX2 register holds a row.
const SIDE: usize = 8;

/// Writes the transposed block `from` to `to`, both `[b, b]`.
///
/// # Panics
/// If a slice has another length.
pub(super) fn turn(from: &[f32], to: &mut [f32], b: usize) {
    assert!(from.len() == b * b && to.len() == b * b && b.is_multiple_of(SIDE));
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the instruction set was found, and the lengths were checked.
        unsafe { avx2::turn(from.as_ptr(), to.as_mut_ptr(), b) };
        return;
    }
    // Both sides stay within a few cache lines.
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

/// macerator has no shuffles, so this one routine is written for its instruction set.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::SIDE;

    /// # Safety
    /// Both hold `b * b` floats, and `b` is a multiple of 8.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn turn(from: *const f32, to: *mut f32, b: usize) {
        // Rows of the result are finished one after the other.
        for col in (0..b).step_by(SIDE) {
            for row in (0..b).step_by(SIDE) {
                // SAFETY: squares tile the block.
                unsafe { square(from.add(row * b + col), to.add(col * b + row), b) };
            }
        }
    }

    /// Turns one square of 8 x 8, rows `stride` apart on both sides.
    ///
    /// # Safety
    /// Both hold eight rows of eight floats.
    #[target_feature(enable = "avx2")]
    unsafe fn square(from: *const f32, to: *mut f32, stride: usize) {
        // Halves of rows `r` and `r + 4` side by side: the exchange of halves costs loads, not shuffles.
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
            let turned = [
                _mm256_shuffle_ps::<0x44>(low01, low23),
                _mm256_shuffle_ps::<0xee>(low01, low23),
                _mm256_shuffle_ps::<0x44>(high01, high23),
                _mm256_shuffle_ps::<0xee>(high01, high23),
            ];
            for (c, row) in turned.into_iter().enumerate() {
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
    fn every_element_is_turned_into_its_place() {
        for b in [8, 16, 32, 64, 128] {
            let block: Vec<f32> = (0..b * b).map(|at| at as f32).collect();
            let mut turned = vec![f32::NAN; b * b];
            turn(&block, &mut turned, b);
            for r in 0..b {
                for c in 0..b {
                    assert_eq!(turned[c * b + r], block[r * b + c], "block {b}");
                }
            }
        }
    }
}
