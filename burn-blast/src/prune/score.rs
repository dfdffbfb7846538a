//! Scores of the kept blocks.

use burn::tensor::{DType, Tensor};
use burn_blast_kernels::BlockPattern;

use super::{BlastConfig, Score};
use crate::functions::block_norms;

/// The sum of each block.
///
/// # Shapes
/// - input: `[nnz, b, b]`; output: `[nnz]`
fn block_sums(elements: Tensor<3>) -> Tensor<1> {
    let nnz = elements.dims()[0];
    elements.sum_dim(2).sum_dim(1).reshape([nnz])
}

/// Element by element, in f32, since in half precision most blocks of a layer would tie.
fn product(one: Tensor<3>, other: Tensor<3>) -> Tensor<3> {
    one.cast(DType::F32) * other.cast(DType::F32)
}

/// The score of one step, for scores of values and gradients.
fn of_step(score: Score, values: Tensor<3>, grad: Tensor<3>) -> Option<Tensor<1>> {
    let products = || product(values, grad);
    match score {
        Score::Movement => Some(block_sums(products()).neg()),
        Score::Saliency => Some(block_sums(products().abs())),
        Score::Taylor => Some(block_sums(products().square())),
        Score::Frobenius | Score::Fisher => None,
    }
}

/// Whether a score is gathered over the steps.
pub(crate) fn is_running(config: &BlastConfig) -> bool {
    config.score == Score::Movement || config.score_decay > 0.0
}

/// Adds one step to a score that is gathered over the steps: to the sum of movement, to the running mean of others. A new
/// block has no mean so far: its first step sets it.
pub(crate) fn add_step(
    config: &BlastConfig,
    so_far: Option<Tensor<1>>,
    values: Tensor<3>,
    grad: Tensor<3>,
) -> Option<Tensor<1>> {
    let step = of_step(config.score, values, grad)?;
    let decay = config.score_decay;
    Some(match so_far {
        None => step,
        Some(so_far) if config.score == Score::Movement => so_far + step,
        Some(so_far) => {
            let is_new = so_far.clone().equal_elem(0.0);
            (so_far * decay + step.clone() * (1.0 - decay)).mask_where(is_new, step)
        }
    })
}

/// What scores are made of.
pub(crate) struct Measured<'a> {
    /// `[nnz, b, b]`, after the step.
    pub(crate) values: Tensor<3>,
    /// Of the step.
    pub(crate) grad: Tensor<3>,
    /// The optimizer's running mean of squared gradients, if it has one.
    pub(crate) second_moment: Option<Tensor<3>>,
    /// Of [`add_step`].
    pub(crate) running: Option<&'a Tensor<1>>,
}

/// Scores by slot, on the host.
pub(crate) fn by_slot(score: Score, measured: Measured<'_>, pattern: &BlockPattern) -> Vec<f32> {
    if pattern.nnz() == 0 {
        return Vec::new();
    }
    let Measured { values, grad, second_moment, running } = measured;
    let scores = match (score, running, second_moment) {
        (Score::Frobenius, ..) => block_norms(values.cast(DType::F32), pattern),
        (_, Some(running), _) => running.clone(),
        (Score::Fisher, _, Some(squares)) => {
            block_sums(product(values.cast(DType::F32).square(), squares))
        }
        // An optimizer without the mean is refused before; it has none before its first step.
        (Score::Fisher | Score::Taylor, ..) => block_sums(product(values, grad).square()),
        (Score::Saliency, ..) => block_sums(product(values, grad).abs()),
        (Score::Movement, ..) => block_sums(product(values, grad)).neg(),
    };
    scores.into_data().iter::<f32>().collect()
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Device;
    use burn_blast_kernels::{BlockSize, MatrixShape};

    use super::*;

    #[test]
    fn every_score_follows_its_formula() {
        let (shape, block) = (MatrixShape::new(8, 16).unwrap(), BlockSize::new(8).unwrap());
        let pattern = BlockPattern::dense(shape, block);
        let filled = |first: f32, second: f32| {
            let part = |value| Tensor::<3>::full([1, 8, 8], value, &Device::flex());
            Tensor::cat(vec![part(first), part(second)], 0)
        };
        for (score, expected) in [
            (Score::Frobenius, [8.0 * 2.0, 8.0 * 3.0]),
            (Score::Saliency, [64.0 * 2.0, 64.0 * 1.5]),
            (Score::Movement, [64.0 * 2.0, -64.0 * 1.5]),
            (Score::Taylor, [64.0 * 4.0, 64.0 * 2.25]),
            (Score::Fisher, [64.0 * 4.0 * 5.0, 64.0 * 9.0 * 7.0]),
        ] {
            let measured = Measured {
                values: filled(-2.0, 3.0),
                grad: filled(1.0, 0.5),
                second_moment: Some(filled(5.0, 7.0)),
                running: None,
            };
            assert_eq!(by_slot(score, measured, &pattern), expected, "{score:?}");
        }
    }
    #[test]
    fn scores_are_gathered_over_the_steps() {
        let filled = |value: f32| Tensor::<3>::full([1, 8, 8], value, &Device::flex());
        let gathered = |config: &BlastConfig, grads: [f32; 2]| {
            let mut so_far = None;
            for grad in grads {
                so_far = add_step(config, so_far, filled(-2.0), filled(grad));
            }
            so_far.map(|so_far| so_far.into_scalar::<f32>())
        };
        let config = BlastConfig::new(10);
        let movement = config.clone().with_score(Score::Movement);
        assert_eq!(gathered(&movement, [1.0, 3.0]), Some(64.0 * 8.0));
        let mean = config.clone().with_score_decay(0.75);
        let taylor = mean.clone().with_score(Score::Taylor);
        assert_eq!(gathered(&taylor, [1.0, 3.0]), Some(64.0 * (0.75 * 4.0 + 0.25 * 36.0)));
        let saliency = mean.with_score(Score::Saliency);
        assert_eq!(gathered(&saliency, [1.0, 3.0]), Some(64.0 * (0.75 * 2.0 + 0.25 * 6.0)));
        assert_eq!(gathered(&taylor, [0.0, 3.0]), Some(64.0 * 36.0));
        assert_eq!(gathered(&config, [1.0, 3.0]), None);
    }
}
