//! Losses of scores over a large vocabulary, with their gradients, in two passes over the scores.

use macerator::{AutoArch, Simd, WithSimd};
use rayon::prelude::*;

use super::lanes::{LANES, Lanes, largest};
use crate::activation::exp;

/// The weights of the two losses of [`score_losses`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoreLosses {
    /// Of the cross-entropy `-log softmax(ours)[target]`.
    pub next_token: f32,
    /// Of the divergence `KL(softmax(theirs) ‖ softmax(ours))`.
    pub divergence: f32,
}

/// Losses of rows of scores, summed over the rows. Replaces `ours` by the gradient of that sum; `theirs` is overwritten.
///
/// A loss of weight 0 is not computed; without `theirs` there is no divergence. Scores must be finite.
///
/// # Shapes
/// - `ours`, `theirs`: `[rows, vocabulary]`, `targets`: `[rows]`
///
/// # Panics
/// If a slice has another length, or a target is not below `vocabulary`.
pub fn score_losses(
    ours: &mut [f32],
    theirs: Option<&mut [f32]>,
    targets: &[u32],
    vocabulary: usize,
    losses: ScoreLosses,
) -> f64 {
    assert_eq!(ours.len(), targets.len() * vocabulary, "ours must be [rows, vocabulary]");
    let rows = ours.par_chunks_exact_mut(vocabulary).zip(targets);
    let sums: Vec<f64> = match theirs.filter(|_| losses.divergence != 0.0) {
        Some(theirs) => {
            assert_eq!(theirs.len(), rows.len() * vocabulary, "theirs must be like ours");
            let rows = rows.zip(theirs.par_chunks_exact_mut(vocabulary));
            rows.map(|((ours, &target), theirs)| row(ours, Some(theirs), target, losses)).collect()
        }
        None => rows.map(|(ours, &target)| row(ours, None, target, losses)).collect(),
    };
    // In order, however the rows were divided.
    sums.into_iter().sum()
}

/// One row.
fn row(ours: &mut [f32], theirs: Option<&mut [f32]>, target: u32, losses: ScoreLosses) -> f64 {
    AutoArch::new().dispatch(RowLoop { ours, theirs, target: target as usize, losses })
}

struct RowLoop<'a> {
    ours: &'a mut [f32],
    theirs: Option<&'a mut [f32]>,
    target: usize,
    losses: ScoreLosses,
}

impl WithSimd for RowLoop<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self) -> f64 {
        let Self { ours, theirs, target, losses: ScoreLosses { next_token, divergence } } = self;
        let (score, highest) = (ours[target], largest(ours));
        let mut loss = -f64::from(next_token) * f64::from(score);
        let mut factor = next_token;
        let mut subtracted = None;
        if let Some(theirs) = theirs {
            let their_highest = largest(theirs);
            let mut weighted = Lanes::default();
            let mut weights = Lanes::default();
            for (own, their) in ours.chunks(LANES).zip(theirs.chunks_mut(LANES)) {
                for (lane, (own, their)) in own.iter().zip(their).enumerate() {
                    let weight = exp(*their - their_highest);
                    weights.0[lane] += weight;
                    weighted.0[lane] += weight * (*their - own);
                    *their = weight;
                }
            }
            let total = weights.sum();
            // The sum over their shares of both logarithms, but for the logarithm of the sum of ours.
            let known = weighted.sum() / total - f64::from(their_highest) - total.ln();
            loss += f64::from(divergence) * known;
            factor += divergence;
            subtracted = Some((theirs, (f64::from(divergence) / total) as f32));
        }
        let mut weights = Lanes::default();
        for own in ours.chunks_mut(LANES) {
            for (lane, own) in own.iter_mut().enumerate() {
                *own = exp(*own - highest);
                weights.0[lane] += *own;
            }
        }
        let total = weights.sum();
        loss += f64::from(factor) * (f64::from(highest) + total.ln());
        let share = (f64::from(factor) / total) as f32;
        match subtracted {
            Some((theirs, their_share)) => {
                for (own, their) in ours.iter_mut().zip(theirs) {
                    *own = *own * share - *their * their_share;
                }
            }
            None => ours.iter_mut().for_each(|own| *own *= share),
        }
        ours[target] -= next_token;
        loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loss and gradient of one row in f64.
    fn exact(
        ours: &[f32],
        theirs: Option<&[f32]>,
        target: usize,
        of: ScoreLosses,
    ) -> (f64, Vec<f64>) {
        let shares = |scores: &[f32]| -> Vec<f64> {
            let highest = scores.iter().copied().fold(f32::MIN, f32::max);
            let weights: Vec<f64> =
                scores.iter().map(|score| f64::from(score - highest).exp()).collect();
            let total: f64 = weights.iter().sum();
            weights.into_iter().map(|weight| weight / total).collect()
        };
        let (next_token, divergence) = (f64::from(of.next_token), f64::from(of.divergence));
        let q = shares(ours);
        let mut loss = -next_token * q[target].ln();
        let mut gradient: Vec<f64> = q.iter().map(|share| next_token * share).collect();
        gradient[target] -= next_token;
        if let Some(theirs) = theirs {
            for (at, p) in shares(theirs).into_iter().enumerate() {
                loss += divergence * p * (p.ln() - q[at].ln());
                gradient[at] += divergence * (q[at] - p);
            }
        }
        (loss, gradient)
    }

    #[test]
    fn losses_and_gradients_are_near_the_oracle() {
        let score = |at: usize, salt: usize| {
            let mixed = (at * 7919 + salt * 104_729) % 2003;
            mixed as f32 / 100.0 - 10.0 + if at == salt { 30.0 } else { 0.0 }
        };
        for vocabulary in [1, 2, 15, 16, 17, 33, 256, 1000] {
            for (next_token, divergence) in [(1.0, 0.0), (0.0, 1.0), (0.3, 0.7), (2.0, 0.5)] {
                let of = ScoreLosses { next_token, divergence };
                let targets = [0, vocabulary / 2, vocabulary - 1];
                let all = |salt: usize| -> Vec<f32> {
                    (0..3 * vocabulary).map(|at| score(at, salt)).collect()
                };
                for theirs in [None, Some(all(3))] {
                    // Without them, only the next token counts.
                    let of =
                        if theirs.is_none() { ScoreLosses { divergence: 0.0, ..of } } else { of };
                    let (ours, mut gradient) = (all(5), all(5));
                    let mut spent = theirs.clone();
                    let indices = targets.map(|target| target as u32);
                    let loss =
                        score_losses(&mut gradient, spent.as_deref_mut(), &indices, vocabulary, of);
                    let mut expected = 0.0;
                    for (row, target) in targets.into_iter().enumerate() {
                        let range = row * vocabulary..(row + 1) * vocabulary;
                        let theirs = theirs.as_ref().map(|theirs| &theirs[range.clone()]);
                        let (one, slopes) = exact(&ours[range.clone()], theirs, target, of);
                        expected += one;
                        for (found, slope) in gradient[range].iter().zip(slopes) {
                            let apart = (f64::from(*found) - slope).abs();
                            assert!(apart < 2e-6, "{vocabulary} {of:?}: {found} {slope}");
                        }
                    }
                    let apart = (loss - expected).abs();
                    assert!(
                        apart < 1e-5 * expected.abs().max(1.0),
                        "{vocabulary} {of:?}: {loss} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn no_rows_lose_nothing() {
        let of = ScoreLosses { next_token: 1.0, divergence: 1.0 };
        assert_eq!(score_losses(&mut [], Some(&mut []), &[], 7, of), 0.0);
    }
}
