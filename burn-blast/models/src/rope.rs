//! Rotary positions, plain and with the scaling of Llama 3.
//!
//! Burn's `RotaryEncoding` rotates neighbouring features; Llama rotates feature `i` with `i + head / 2`. It also
//! multiplies by a 2 × 4 matrix per pair, which is slow on a CPU.

use std::f64::consts::TAU;

use burn::tensor::{DType, Device, Tensor, TensorData};

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
}

/// Angles by which pairs of head features are rotated at each position.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    frequencies: Vec<f64>,
}

/// Cosines and sines of consecutive positions, each `[1, 1, time, head / 2]`.
#[derive(Clone, Debug)]
pub struct Rotation {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rope {
    /// Frequencies for heads of `head` features, from `theta` to the power 0 down to almost -1.
    ///
    /// Follows `_compute_default_rope_parameters` and its siblings in `modeling_rope_utils.py` of transformers.
    pub fn new(head: usize, theta: f64, scaling: &RopeScaling) -> Self {
        let plain = |pair| theta.powf(-2.0 * f64::from(pair as u32) / head as f64);
        let scaled = |frequency: f64| match *scaling {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let waves = original_context as f64 * frequency / TAU;
                let smooth = (waves - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let kept = smooth.clamp(0.0, 1.0);
                kept * frequency + (1.0 - kept) * frequency / factor
            }
        };
        Self { frequencies: (0..head / 2).map(|pair| scaled(plain(pair))).collect() }
    }

    /// The rotation at positions `start..start + time`.
    ///
    /// Re-computed for every pass: a table for all positions of a long-context model is larger than its layers.
    pub fn at(&self, start: usize, time: usize, device: &Device, dtype: DType) -> Rotation {
        let angles = (start..start + time)
            .flat_map(|position| self.frequencies.iter().map(move |f| position as f64 * f));
        let angles: Vec<f64> = angles.collect();
        let table = |wave: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|angle| wave(*angle) as f32).collect();
            let data = TensorData::new(values, [1, 1, time, self.frequencies.len()]);
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

    #[test]
    fn linear_scaling_divides_every_frequency() {
        let plain = Rope::new(8, 10_000.0, &RopeScaling::None).frequencies;
        let scaled = Rope::new(8, 10_000.0, &RopeScaling::Linear { factor: 4.0 }).frequencies;
        assert!(plain.iter().zip(&scaled).all(|(p, s)| p / 4.0 == *s));
    }
}
