//! Softmax of the rows of a matrix with a mask, and its gradient.

use std::mem::MaybeUninit;

use macerator::{AutoArch, Simd, WithSimd};
use rayon::prelude::*;

use super::lanes::{LANES, Lanes};
use super::tasks::threads_for;
use crate::activation::exp;

/// Numbers of a task: about 50 µs of one core. Guess.
const TASK: usize = 1 << 16;

/// Multiply-adds in the time of one number of a row, to decide on the number of threads. Guess.
const COST: usize = 16;

/// Differences from the largest score below which a share is zero. `e^-80` is not small enough for products with it to
/// be subnormal, which some machines are slow at.
const VANISHING: f32 = -80.0;

/// `softmax(x + mask)` along rows of `width` numbers, written to `out`. The rows of the mask repeat.
///
/// # Shapes
/// - `x`, `out`: `[rows, width]`, `mask`: `[period, width]`, where `period` divides `rows`
///
/// # Panics
/// If a slice has another length.
pub fn masked_softmax_into(x: &[f32], mask: &[f32], width: usize, out: &mut [MaybeUninit<f32>]) {
    assert_eq!(x.len(), out.len(), "out must be like x");
    if x.is_empty() {
        return;
    }
    assert!(x.len().is_multiple_of(width), "x must be [rows, width]");
    let period = mask.len() / width;
    let fits =
        period > 0 && mask.len() == period * width && (x.len() / width).is_multiple_of(period);
    assert!(fits, "mask must be [period, width], and period must divide the rows");
    by_rows(x.len(), width, out, |first, out| {
        for (at, row) in out.chunks_exact_mut(width).enumerate() {
            let number = first + at;
            let mask_at = number % period * width;
            let (x, mask) = (&x[number * width..][..width], &mask[mask_at..mask_at + width]);
            AutoArch::new().dispatch(Forward { x, mask, out: row });
        }
    });
}

/// The gradient of the input of a softmax from its result `y` and the gradient `dy` of that, written to `out`.
///
/// # Shapes
/// - all: `[rows, width]`
///
/// # Panics
/// If a slice has another length.
pub fn softmax_backward_into(y: &[f32], dy: &[f32], width: usize, out: &mut [MaybeUninit<f32>]) {
    assert_eq!((y.len(), dy.len()), (out.len(), out.len()), "y and dy must be like out");
    if y.is_empty() {
        return;
    }
    assert!(y.len().is_multiple_of(width), "y must be [rows, width]");
    by_rows(y.len(), width, out, |first, out| {
        for (at, row) in out.chunks_exact_mut(width).enumerate() {
            let place = (first + at) * width..(first + at + 1) * width;
            AutoArch::new().dispatch(Backward { y: &y[place.clone()], dy: &dy[place], out: row });
        }
    });
}

/// Calls `work` with the number of the first row of a part of `out`, and the part.
fn by_rows(
    len: usize,
    width: usize,
    out: &mut [MaybeUninit<f32>],
    work: impl Fn(usize, &mut [MaybeUninit<f32>]) + Send + Sync,
) {
    if threads_for(COST * len) == 1 {
        return work(0, out);
    }
    let rows = (TASK / width).max(1);
    let parts = out.par_chunks_mut(rows * width).enumerate();
    parts.for_each(|(part, out)| work(part * rows, out));
}

struct Forward<'a> {
    x: &'a [f32],
    mask: &'a [f32],
    out: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Self { x, mask, out } = self;
        let mut highest = [f32::NEG_INFINITY; LANES];
        for ((x, mask), out) in x.chunks(LANES).zip(mask.chunks(LANES)).zip(out.chunks_mut(LANES)) {
            for (lane, ((x, mask), out)) in x.iter().zip(mask).zip(out).enumerate() {
                let score = x + mask;
                out.write(score);
                highest[lane] = if score > highest[lane] { score } else { highest[lane] };
            }
        }
        let highest = highest.into_iter().fold(f32::NEG_INFINITY, f32::max);
        // SAFETY: every element was written.
        let out = unsafe { &mut *(std::ptr::from_mut(out) as *mut [f32]) };
        shares(out, highest);
    }
}

/// The softmax of a row in place, from its largest score.
#[inline(always)]
pub(super) fn shares(row: &mut [f32], highest: f32) {
    let mut sums = Lanes::default();
    for part in row.chunks_mut(LANES) {
        for (sum, score) in sums.0.iter_mut().zip(part) {
            let below = *score - highest;
            // In this order NaN is propagated.
            *score = if below < VANISHING { 0.0 } else { exp(below) };
            *sum += *score;
        }
    }
    let share = sums.sum().recip() as f32;
    row.iter_mut().for_each(|weight| *weight *= share);
}

struct Backward<'a> {
    y: &'a [f32],
    dy: &'a [f32],
    out: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Self { y, dy, out } = self;
        let mut sums = Lanes::default();
        for (y, dy) in y.chunks(LANES).zip(dy.chunks(LANES)) {
            for (sum, (y, dy)) in sums.0.iter_mut().zip(y.iter().zip(dy)) {
                *sum += y * dy;
            }
        }
        let mean = sums.sum() as f32;
        for (out, (y, dy)) in out.iter_mut().zip(y.iter().zip(dy)) {
            out.write(y * (dy - mean));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vector that `fill` writes.
    fn filled(len: usize, fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
        let mut out = vec![f32::NAN; len];
        // SAFETY: of the same layout; what is not written stays a number that is none.
        fill(unsafe { &mut *(std::ptr::from_mut(out.as_mut_slice()) as *mut [MaybeUninit<f32>]) });
        out
    }

    fn numbers(len: usize, salt: usize) -> Vec<f32> {
        (0..len).map(|at| ((at * 7919 + salt * 104_729) % 2003) as f32 / 200.0 - 5.0).collect()
    }

    #[test]
    fn shares_and_gradients_are_near_the_oracle() {
        for (rows, width) in [(1, 1), (2, 2), (6, 15), (4, 16), (8, 17), (9, 33), (300, 256)] {
            let period = if rows % 2 == 0 { 2 } else { 1 };
            let x = numbers(rows * width, 1);
            let mut mask = numbers(period * width, 2);
            // What must not be seen, but not all of a row.
            mask.iter_mut().skip(1).step_by(3).for_each(|hidden| *hidden = -1e9);
            let y = filled(x.len(), |out| masked_softmax_into(&x, &mask, width, out));
            let dy = numbers(x.len(), 3);
            let dx = filled(x.len(), |out| softmax_backward_into(&y, &dy, width, out));
            for row in 0..rows {
                let place = row * width..(row + 1) * width;
                let mask = &mask[row % period * width..][..width];
                let scores: Vec<f64> = x[place.clone()]
                    .iter()
                    .zip(mask)
                    .map(|(x, mask)| f64::from(*x) + f64::from(*mask))
                    .collect();
                let highest = scores.iter().copied().fold(f64::MIN, f64::max);
                let total: f64 = scores.iter().map(|score| (score - highest).exp()).sum();
                let shares: Vec<f64> =
                    scores.iter().map(|score| (score - highest).exp() / total).collect();
                let dy = &dy[place.clone()];
                let mean: f64 = shares.iter().zip(dy).map(|(y, dy)| y * f64::from(*dy)).sum();
                for (at, share) in shares.iter().enumerate() {
                    let found = f64::from(y[place.start + at]);
                    assert!(
                        (found - share).abs() <= 2e-6 * share + 1e-30,
                        "{rows} {width}: {found} {share}"
                    );
                    let slope = share * (f64::from(dy[at]) - mean);
                    let found = f64::from(dx[place.start + at]);
                    assert!((found - slope).abs() < 1e-5, "{rows} {width}: {found} {slope}");
                }
            }
        }
        masked_softmax_into(&[], &[], 4, &mut []);
        softmax_backward_into(&[], &[], 4, &mut []);
    }

    #[test]
    fn a_number_that_is_none_is_not_hidden() {
        let y = filled(3, |out| masked_softmax_into(&[1.0, f32::NAN, 2.0], &[0.0; 3], 3, out));
        assert!(y.iter().any(|share| share.is_nan()));
    }
}
