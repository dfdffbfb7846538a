//! Losses: the cross-entropy of the next token, and distances from a teacher.
//!
//! Burn's `CrossEntropyLoss` and `KLDivLoss` sum in another order, and the latter takes the logarithm of probabilities
//! that may be zero; recorded runs were made with these.

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Int, Tensor};

/// Keeps the relative distance of hidden states finite where the teacher's are all zero.
const TINY: f64 = 1e-6;

/// Mean cross-entropy of the next token, in nats.
///
/// # Shapes
/// - `logits`: `[batch, time, vocabulary]`, `targets`: `[batch * time]`
pub fn next_token(logits: Tensor<3>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [batch, time, vocabulary] = logits.dims();
    let log_shares = log_softmax(logits.reshape([batch * time, vocabulary]), 1);
    log_shares.gather(1, targets.reshape([batch * time, 1])).mean().neg()
}

/// Mean divergence of the student's scores from the teacher's, `KL(teacher ‖ student)` in nats, both divided by
/// `temperature` and the result multiplied by its square, so that gradients keep their size (Hinton et al. 2015).
///
/// # Shapes
/// - both: `[batch, time, vocabulary]`
pub fn divergence(student: Tensor<3>, teacher: Tensor<3>, temperature: f64) -> Tensor<1> {
    let positions = student.dims()[0] * student.dims()[1];
    let ours = log_softmax(student.div_scalar(temperature), 2);
    let theirs = teacher.div_scalar(temperature);
    let distance = softmax(theirs.clone(), 2) * (log_softmax(theirs, 2) - ours);
    distance.sum().mul_scalar(temperature * temperature / positions as f64)
}

/// Mean over layers of the squared distance from the teacher's hidden states, relative to their mean square
/// (SquareHead, Kurtic et al. 2023).
///
/// # Panics
/// If the two have different numbers of layers.
pub fn hidden_states(student: Vec<Tensor<3>>, teacher: Vec<Tensor<3>>) -> Tensor<1> {
    assert_eq!(student.len(), teacher.len(), "student and teacher must have the same layers");
    let layers = student.len() as f64;
    let distances = student.into_iter().zip(teacher).map(|(ours, theirs)| {
        let size = theirs.clone().square().mean().add_scalar(TINY);
        (ours - theirs).square().mean() / size
    });
    let sum = distances.reduce(|sum, distance| sum + distance).expect("a model has layers");
    sum.div_scalar(layers)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    fn number(loss: Tensor<1>) -> f64 {
        f64::from(loss.into_scalar::<f32>())
    }

    #[test]
    fn equal_scores_cost_their_entropy_and_diverge_by_nothing() {
        let device = Device::flex();
        let logits = Tensor::<3>::zeros([2, 3, 8], &device);
        let targets = Tensor::<1, Int>::from_ints([0, 1, 2, 3, 4, 5], &device);
        assert!((number(next_token(logits.clone(), targets)) - 8.0_f64.ln()).abs() < 1e-6);
        assert!(number(divergence(logits.clone(), logits, 2.0)).abs() < 1e-6);
    }

    #[test]
    fn the_divergence_follows_the_formula() {
        let device = Device::flex();
        let student = Tensor::<3>::from_floats([[[1.0, 0.0, -1.0]]], &device);
        let teacher = Tensor::<3>::from_floats([[[0.0, 2.0, 0.0]]], &device);
        let shares = |logits: [f64; 3]| {
            let sum: f64 = logits.iter().map(|x| (x / 2.0).exp()).sum();
            logits.map(|x| (x / 2.0).exp() / sum)
        };
        let (p, q) = (shares([0.0, 2.0, 0.0]), shares([1.0, 0.0, -1.0]));
        let want: f64 = 4.0 * p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
        assert!((number(divergence(student, teacher, 2.0)) - want).abs() < 1e-5);
    }

    #[test]
    fn the_distance_of_hidden_states_is_relative() {
        let device = Device::flex();
        let teacher = Tensor::<3>::random([2, 3, 4], Distribution::Default, &device) + 1.0;
        let far = |scale: f64| teacher.clone() * scale;
        let one = number(hidden_states(vec![far(1.5)], vec![teacher.clone()]));
        assert!((one - 0.25).abs() < 1e-5, "{one}");
        let two =
            number(hidden_states(vec![far(1.5), far(1.0)], vec![teacher.clone(), teacher.clone()]));
        assert!((two - 0.125).abs() < 1e-5, "{two}");
    }
}
