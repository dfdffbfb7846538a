//! The learning rate over a run.

use crate::args::{Decay, TrainArgs};

/// Share of the highest learning rate that is left at the end.
const LOWEST: f64 = 0.1;

/// The learning rate of a step, counted from 0: a rising line, then as asked for.
pub fn learning_rate(step: usize, args: &TrainArgs) -> f64 {
    if step < args.warm_up {
        return args.lr * (step + 1) as f64 / (args.warm_up + 1) as f64;
    }
    let falling = args.steps.saturating_sub(args.warm_up).max(1);
    let share = ((step - args.warm_up) as f64 / falling as f64).min(1.0);
    let left = match args.decay {
        Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * share).cos()),
        Decay::Linear => 1.0 - share,
        Decay::Constant => return args.lr,
    };
    args.lr * (LOWEST + (1.0 - LOWEST) * left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tests::args;

    #[test]
    fn the_learning_rate_rises_to_its_peak_and_falls_to_a_tenth() {
        for decay in [Decay::Cosine, Decay::Linear] {
            let args = TrainArgs { steps: 200, warm_up: 20, lr: 1.0, decay, ..args() };
            let rates: Vec<f64> = (0..200).map(|step| learning_rate(step, &args)).collect();
            assert!(rates[0] > 0.0 && rates[..21].is_sorted());
            assert_eq!(rates[20], 1.0);
            assert!(rates[20..].iter().rev().is_sorted());
            assert!((rates[199] - LOWEST).abs() < 0.01, "{}", rates[199]);
        }
    }

    #[test]
    fn a_constant_rate_stays() {
        let args = TrainArgs { steps: 10, warm_up: 0, decay: Decay::Constant, ..args() };
        assert!((0..10).all(|step| learning_rate(step, &args) == args.lr));
    }
}
