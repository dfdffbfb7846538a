//! Rotary positions, plain and scaled for longer texts.
//!
//! Burn's `RotaryEncoding` rotates neighbouring features; Llama and its relatives rotate feature `i` with `i + head / 2`. It also
//! multiplies by a 2 × 4 matrix per pair, which is slow on a CPU.

use std::f64::consts::TAU;

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::Error;

/// How the frequencies are scaled for texts longer than in pretraining.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// All by one factor.
    Linear {
        /// The divisor of every frequency.
        factor: f64,
    },
    /// By wavelength, as Llama 3.1 does: long waves by the factor, short ones not, waves between in part.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Waves longer than `original_context / low_freq_factor` are scaled whole.
        low_freq_factor: f64,
        /// Waves shorter than `original_context / high_freq_factor` are not scaled.
        high_freq_factor: f64,
        /// Positions of the pretraining.
        original_context: usize,
    },
    /// By the length of the text: from the positions of the pretraining on, the base grows with it (NTK).
    Dynamic {
        /// How much longer texts may become.
        factor: f64,
        /// Positions of the pretraining.
        original_context: usize,
    },
    /// By the number of turns over the pretraining (YaRN): few by the factor, many not, numbers between in part.
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// Factor of the rotated features, which sharpens attention over longer texts.
        attention: f64,
        /// Waves of more turns than this are not scaled.
        beta_fast: f64,
        /// Waves of fewer turns than this are scaled whole.
        beta_slow: f64,
        /// Whether these limits are rounded outwards to whole pairs of features.
        truncate: bool,
        /// Positions of the pretraining.
        original_context: usize,
    },
    /// Each frequency by a divisor of its own, others for texts longer than in pretraining.
    LongRope {
        /// Divisors up to the positions of the pretraining.
        short: Vec<f64>,
        /// Divisors from there on.
        long: Vec<f64>,
        /// Factor of the rotated features.
        attention: f64,
        /// Positions of the pretraining.
        original_context: usize,
    },
}

/// How a model turns positions into rotations.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// The base: frequencies are its powers from 0 down to almost -1.
    pub theta: f64,
    /// What is done for longer texts.
    pub scaling: RopeScaling,
}

/// Of a Llama.
impl Default for Rotary {
    fn default() -> Self {
        Self { theta: 10_000.0, scaling: RopeScaling::None }
    }
}

impl Rotary {
    /// Refuses divisors that are not one for each pair of features.
    pub(crate) fn check(&self, head: usize) -> Result<(), Error> {
        let pairs = head / 2;
        match &self.scaling {
            RopeScaling::LongRope { short, long, .. }
                if [short, long].into_iter().any(|divisors| divisors.len() != pairs) =>
            {
                let (short, long) = (short.len(), long.len());
                Err(Error::Contradiction(format!(
                    "short_factor and long_factor have {short} and {long} numbers, but a head has {pairs} pairs of features"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Positions of a model that was made for so many without scaling.
    pub(crate) fn context(&self, positions: usize) -> usize {
        match self.scaling {
            RopeScaling::Dynamic { factor, original_context }
            | RopeScaling::Yarn { factor, original_context, .. } => {
                positions.max((factor * original_context as f64) as usize)
            }
            _ => positions,
        }
    }
}

/// Angles by which pairs of head features are rotated at each position.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    rotary: Rotary,
    head: usize,
}

/// Cosines and sines of consecutive positions, each `[1, 1, time, head / 2]`.
#[derive(Clone, Debug)]
pub struct Rotation {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rope {
    /// Rotations of heads of `head` features.
    pub fn new(head: usize, rotary: Rotary) -> Self {
        Self { rotary, head }
    }

    /// A frequency for each pair of features, in a text of `length` positions.
    ///
    /// Follows `_compute_default_rope_parameters` and its siblings in `modeling_rope_utils.py` of transformers.
    fn frequencies(&self, length: usize) -> Vec<f64> {
        let head = self.head as f64;
        let theta = match self.rotary.scaling {
            RopeScaling::Dynamic { factor, original_context } => {
                let longer = length.max(original_context) as f64 / original_context as f64;
                self.rotary.theta * (factor * longer - (factor - 1.0)).powf(head / (head - 2.0))
            }
            _ => self.rotary.theta,
        };
        let pairs = (0..self.head / 2).map(|pair| pair as f64);
        let plain = pairs.map(|pair| (pair, theta.powf(-2.0 * pair / head)));
        let plain = plain.map(|(pair, frequency)| self.scaled(pair, frequency));
        match &self.rotary.scaling {
            RopeScaling::LongRope { short, long, original_context, .. } => {
                let divisors = if length > *original_context { long } else { short };
                plain.zip(divisors).map(|(frequency, divisor)| frequency / divisor).collect()
            }
            _ => plain.collect(),
        }
    }

    fn scaled(&self, pair: f64, frequency: f64) -> f64 {
        let mixed = |factor: f64, kept: f64| kept * frequency + (1.0 - kept) * frequency / factor;
        match self.rotary.scaling {
            RopeScaling::None | RopeScaling::Dynamic { .. } | RopeScaling::LongRope { .. } => {
                frequency
            }
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let waves = original_context as f64 * frequency / TAU;
                let smooth = (waves - low_freq_factor) / (high_freq_factor - low_freq_factor);
                mixed(factor, smooth.clamp(0.0, 1.0))
            }
            RopeScaling::Yarn {
                factor, beta_fast, beta_slow, truncate, original_context, ..
            } => {
                let head = self.head as f64;
                // The pair of features that makes so many turns over the pretraining.
                let pair_of = |turns: f64| {
                    head * (original_context as f64 / (turns * TAU)).ln()
                        / (2.0 * self.rotary.theta.ln())
                };
                let (low, high) = match truncate {
                    true => (pair_of(beta_fast).floor(), pair_of(beta_slow).ceil()),
                    false => (pair_of(beta_fast), pair_of(beta_slow)),
                };
                let (low, high) = (low.max(0.0), high.min(head - 1.0));
                let high = if low == high { high + 0.001 } else { high };
                mixed(factor, 1.0 - ((pair - low) / (high - low)).clamp(0.0, 1.0))
            }
        }
    }

    /// Factor of the rotated features.
    fn attention(&self) -> f64 {
        match self.rotary.scaling {
            RopeScaling::Yarn { attention, .. } | RopeScaling::LongRope { attention, .. } => {
                attention
            }
            _ => 1.0,
        }
    }

    /// The rotation at positions `start..start + time`.
    ///
    /// Re-computed for every pass: a table for all positions of a long-context model is larger than its layers.
    pub fn at(&self, start: usize, time: usize, device: &Device, dtype: DType) -> Rotation {
        let frequencies = self.frequencies(start + time);
        let angles = (start..start + time)
            .flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
        let (angles, attention): (Vec<f64>, _) = (angles.collect(), self.attention());
        let table = |wave: fn(f64) -> f64| {
            let values = angles.iter().map(|angle| (wave(*angle) * attention) as f32);
            let data = TensorData::new(values.collect::<Vec<_>>(), [1, 1, time, frequencies.len()]);
            Tensor::<4>::from_data(data, (device, DType::F32)).cast(dtype)
        };
        Rotation { cos: table(f64::cos), sin: table(f64::sin) }
    }
}

impl Rotation {
    /// Rotates feature `i` and feature `i + head / 2` of every head.
    ///
    /// # Shapes
    /// - `x` and output: `[batch, heads, time, head]`
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let first = x.clone().slice_dim(3, 0..half);
        let second = x.slice_dim(3, half..2 * half);
        let (cos, sin) = (self.cos.clone(), self.sin.clone());
        let rotated = first.clone() * cos.clone() - second.clone() * sin.clone();
        Tensor::cat(vec![rotated, second * cos + first * sin], 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(scaling: RopeScaling, length: usize) -> Vec<f64> {
        Rope::new(8, Rotary { theta: 10_000.0, scaling }).frequencies(length)
    }

    #[test]
    fn linear_scaling_divides_every_frequency() {
        let plain = frequencies(RopeScaling::None, 1);
        let scaled = frequencies(RopeScaling::Linear { factor: 4.0 }, 1);
        assert!(plain.iter().zip(&scaled).all(|(p, s)| p / 4.0 == *s));
    }

    #[test]
    fn dynamic_scaling_begins_after_the_pretraining() {
        let plain = frequencies(RopeScaling::None, 1);
        let dynamic = RopeScaling::Dynamic { factor: 2.0, original_context: 16 };
        assert_eq!(frequencies(dynamic.clone(), 16), plain);
        let longer = frequencies(dynamic, 32);
        assert_eq!(longer[0], plain[0]);
        assert!(longer[1..].iter().zip(&plain[1..]).all(|(longer, plain)| longer < plain));
    }
}
