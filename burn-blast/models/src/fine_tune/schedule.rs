//! The learning rate over a run.
//!
//! A function of the step, so that a resumed run needs no record of it. Burn's schedulers count steps in their state
//! and round in another order.

use serde::{Deserialize, Serialize};

use super::TrainConfig;

/// Share of the highest learning rate that is left at the end.
const LOWEST: f64 = 0.1;

/// How the learning rate falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// By half a cosine, to a tenth.
    #[default]
    Cosine,
    /// Linearly, to a tenth.
    Linear,
    /// Not at all.
    Constant,
}

impl TrainConfig {
    /// The learning rate of a step, counted from 0: a linear rise to the highest one, then a decay.
    pub fn lr_at(&self, step: usize) -> f64 {
        let step = step as f64;
        if step < self.warm_up {
            return self.lr * (step + 1.0) / (self.warm_up + 1.0);
        }
        let share = (step - self.warm_up) / (self.steps as f64 - self.warm_up).max(1.0);
        let share = share.min(1.0);
        let left = match self.decay {
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * share).cos()),
            Decay::Linear => 1.0 - share,
            Decay::Constant => return self.lr,
        };
        self.lr * (LOWEST + (1.0 - LOWEST) * left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(warm_up: f64, decay: Decay) -> Vec<f64> {
        let config = TrainConfig::new(200).with_lr(1.0).with_warm_up(warm_up).with_decay(decay);
        (0..200).map(|step| config.lr_at(step)).collect()
    }

    #[test]
    fn the_learning_rate_rises_to_its_peak_and_falls_to_a_tenth() {
        for decay in [Decay::Cosine, Decay::Linear] {
            let rates = rates(20.0, decay);
            assert!(rates[0] > 0.0 && rates[..21].is_sorted());
            assert_eq!(rates[20], 1.0);
            assert!(rates[20..].iter().rev().is_sorted());
            assert!((rates[199] - LOWEST).abs() < 0.01, "{}", rates[199]);
        }
    }

    #[test]
    fn a_constant_rate_stays() {
        assert_eq!(rates(0.0, Decay::Constant), [1.0; 200]);
    }
}
