//! Choosing the next token from its scores.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Error;

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct Sampling {
    /// 0 takes the likeliest token; above it tokens are drawn, and below 1 likely ones become likelier.
    #[cfg_attr(feature = "clap", arg(long, default_value_t = 0.0, help_heading = "Sampling"))]
    pub temperature: f64,
    /// Draw from this many of the likeliest tokens only.
    #[cfg_attr(feature = "clap", arg(long, value_name = "TOKENS", help_heading = "Sampling"))]
    pub top_k: Option<usize>,
    /// Draw from the fewest likeliest tokens that have this share together.
    #[cfg_attr(
        feature = "clap",
        arg(long, value_name = "SHARE", default_value_t = 1.0, help_heading = "Sampling")
    )]
    pub top_p: f64,
    /// The same seed gives the same text.
    #[cfg_attr(feature = "clap", arg(long, default_value_t = 0, help_heading = "Sampling"))]
    pub seed: u64,
}

impl Sampling {
    /// Always the likeliest token; of equals, the first.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: None, top_p: 1.0, seed: 0 };

    /// Checks what no type does.
    ///
    /// # Errors
    /// If a number is out of range.
    pub fn check(&self) -> Result<(), Error> {
        let (temperature, top_p) = (self.temperature, self.top_p);
        Error::in_range("temperature", temperature, temperature >= 0.0, "a number from 0")?;
        Error::at_least_one(&[("top-k", self.top_k.unwrap_or(1))])?;
        Error::in_range("top-p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0 and at most 1")
    }
}

/// Draws tokens.
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
}

impl Sampler {
    pub(crate) fn new(sampling: &Sampling) -> Result<Self, Error> {
        sampling.check()?;
        let random = ChaCha8Rng::seed_from_u64(sampling.seed);
        Ok(Self { sampling: sampling.clone(), random })
    }

    /// The next token of a vocabulary with these scores.
    pub(crate) fn pick(&mut self, logits: &[f32]) -> u32 {
        if self.sampling.temperature == 0.0 {
            return likeliest(logits);
        }
        let candidates = self.candidates(logits);
        let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
        let mut left = self.random.random::<f64>() * total;
        for (token, weight) in &candidates {
            left -= weight;
            if left < 0.0 {
                return *token;
            }
        }
        // Reached by rounding only.
        candidates[0].0
    }

    /// Tokens to draw from with their weights, likeliest first: temperature, then top-k, then top-p, as in
    /// transformers.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let highest = f64::from(logits[likeliest(logits) as usize]);
        let weight = |logit: f32| ((f64::from(logit) - highest) / self.sampling.temperature).exp();
        let mut all: Vec<(u32, f64)> = logits
            .iter()
            .enumerate()
            .map(|(token, logit)| (token as u32, weight(*logit)))
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all.truncate(self.sampling.top_k.unwrap_or(all.len()));
        let share = self.sampling.top_p * all.iter().map(|(_, weight)| weight).sum::<f64>();
        let mut sum = 0.0;
        let enough = all.iter().position(|(_, weight)| {
            sum += weight;
            sum >= share
        });
        all.truncate(enough.map_or(all.len(), |last| last + 1));
        all
    }
}

/// The first token with the highest score.
fn likeliest(logits: &[f32]) -> u32 {
    let best = |best: usize, token: usize| if logits[token] > logits[best] { token } else { best };
    (0..logits.len()).reduce(best).unwrap_or(0) as u32
}

#[cfg(test)]
mod tests {
    use std::f32::consts::LN_2;

    use super::*;

    /// Shares 0.5, 0.25, 0.125, 0.125.
    const LOGITS: [f32; 4] = [-LN_2, 0.0, -2.0 * LN_2, -2.0 * LN_2];

    fn sampler(sampling: Sampling) -> Sampler {
        Sampler::new(&sampling).unwrap()
    }

    fn plain() -> Sampling {
        Sampling { temperature: 1.0, ..Sampling::GREEDY }
    }

    fn drawn(sampling: Sampling) -> [usize; 4] {
        let mut sampler = sampler(sampling);
        let mut counts = [0; 4];
        (0..8000).for_each(|_| counts[sampler.pick(&LOGITS) as usize] += 1);
        counts
    }

    #[test]
    fn tokens_are_drawn_by_their_shares() {
        let counts = drawn(plain());
        let expected = [2000.0, 4000.0, 1000.0, 1000.0];
        for (count, expected) in counts.into_iter().zip(expected) {
            let limit = 5.0 * f64::sqrt(expected);
            assert!((count as f64 - expected).abs() < limit, "{counts:?}");
        }
    }

    #[test]
    fn top_k_leaves_the_likeliest_and_top_p_the_fewest_that_reach_the_share() {
        for sampling in [Sampling { top_k: Some(2), ..plain() }, Sampling { top_p: 0.7, ..plain() }]
        {
            let counts = drawn(sampling);
            assert!(counts[0] > 0 && counts[1] > 0 && counts[2..] == [0, 0], "{counts:?}");
        }
        assert_eq!(drawn(Sampling { top_p: 0.4, ..plain() }), [0, 8000, 0, 0]);
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_likeliest() {
        assert_eq!(sampler(Sampling::GREEDY).pick(&[0.0, 2.0, 2.0]), 1);
    }

    #[test]
    fn the_seed_decides() {
        let draw = |seed| {
            let mut sampler = sampler(Sampling { seed, ..plain() });
            (0..50).map(|_| sampler.pick(&LOGITS)).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }
}
