//! The learning rate over a run.

use crate::args::Config;

/// Share of the steps in which the learning rate rises.
const WARM_UP: f64 = 0.05;

/// Share of the highest learning rate that is left at the end.
const LOWEST_LR: f64 = 0.1;

/// The learning rate of a step: a rising line, then half a cosine.
pub fn learning_rate(step: usize, config: &Config) -> f64 {
    let warm_up = (config.steps as f64 * WARM_UP).max(1.0);
    let step = step as f64;
    if step < warm_up {
        return config.lr * (step + 1.0) / (warm_up + 1.0);
    }
    let share = (step - warm_up) / (config.steps as f64 - warm_up).max(1.0);
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * share.min(1.0)).cos());
    config.lr * (LOWEST_LR + (1.0 - LOWEST_LR) * cosine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_to_its_peak_and_falls_to_its_floor() {
        let config = Config { steps: 200, lr: 1.0, ..Config::default() };
        let rates: Vec<f64> = (0..200).map(|step| learning_rate(step, &config)).collect();
        assert!(rates[0] > 0.0);
        assert!(rates[..11].is_sorted());
        assert_eq!(rates[10], 1.0);
        assert!(rates[10..].iter().rev().is_sorted());
        assert!((rates[199] - LOWEST_LR).abs() < 1e-3);
    }

    #[test]
    fn a_single_step_has_a_learning_rate() {
        let config = Config { steps: 1, lr: 1.0, ..Config::default() };
        assert_eq!(learning_rate(0, &config), 0.5);
    }
}
