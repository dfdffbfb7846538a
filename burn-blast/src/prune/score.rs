//! Scores of the kept blocks.

use burn::tensor::{DType, Tensor};
use burn_blast_kernels::BlockPattern;

use super::Score;
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

/// Adds one step to the movement of each block.
pub(crate) fn add_movement(
    so_far: Option<Tensor<1>>,
    values: Tensor<3>,
    grad: Tensor<3>,
) -> Tensor<1> {
    let step = block_sums(product(values, grad)).neg();
    match so_far {
        Some(so_far) => so_far + step,
        None => step,
    }
}

/// What scores are made of.
pub(crate) struct Measured<'a> {
    /// `[nnz, b, b]`, after the step.
    pub(crate) values: Tensor<3>,
    /// Of the step.
    pub(crate) grad: Tensor<3>,
    /// The optimizer's running mean of squared gradients, if it has one.
    pub(crate) second_moment: Option<Tensor<3>>,
    /// `[nnz]`, if it is recorded.
    pub(crate) movement: Option<&'a Tensor<1>>,
}

/// Scores by slot, on the host.
pub(crate) fn by_slot(score: Score, measured: Measured<'_>, pattern: &BlockPattern) -> Vec<f32> {
    if pattern.nnz() == 0 {
        return Vec::new();
    }
    let Measured { values, grad, second_moment, movement } = measured;
    let scores = match (score, movement, second_moment) {
        (Score::Movement, Some(movement), _) => movement.clone(),
        (Score::Saliency, ..) => block_sums(product(values, grad).abs()),
        (Score::Fisher, _, Some(squares)) => {
            block_sums(product(values.cast(DType::F32).square(), squares))
        }
        // An optimizer without the mean is refused before; it has none before its first step.
        (Score::Taylor | Score::Fisher, ..) => block_sums(product(values, grad).square()),
        (Score::Frobenius | Score::Movement, ..) => block_norms(values.cast(DType::F32), pattern),
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
        let movement = Tensor::<1>::from_floats([3.0, -4.0], &Device::flex());
        for (score, expected) in [
            (Score::Frobenius, [8.0 * 2.0, 8.0 * 3.0]),
            (Score::Saliency, [64.0 * 2.0, 64.0 * 1.5]),
            (Score::Movement, [3.0, -4.0]),
            (Score::Taylor, [64.0 * 4.0, 64.0 * 2.25]),
            (Score::Fisher, [64.0 * 4.0 * 5.0, 64.0 * 9.0 * 7.0]),
        ] {
            let measured = Measured {
                values: filled(-2.0, 3.0),
                grad: filled(1.0, 0.5),
                second_moment: Some(filled(5.0, 7.0)),
                movement: Some(&movement),
            };
            assert_eq!(by_slot(score, measured, &pattern), expected, "{score:?}");
        }
    }
}
