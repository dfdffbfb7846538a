//! Scores of the kept blocks.

use burn::tensor::{DType, Tensor};
use burn_blast_kernels::BlockPattern;

use super::Score;
use crate::functions::block_norms;

/// `Σ w · g` of each block, or `Σ |w · g|`. In f32, since in half precision most blocks of a layer would tie.
///
/// # Shapes
/// - both: `[nnz, b, b]`; output: `[nnz]`
fn product_sums(values: Tensor<3>, grad: Tensor<3>, absolute: bool) -> Tensor<1> {
    let nnz = values.dims()[0];
    let product = values.cast(DType::F32) * grad.cast(DType::F32);
    let product = if absolute { product.abs() } else { product };
    product.sum_dim(2).sum_dim(1).reshape([nnz])
}

/// Adds one step to the movement of each block.
pub(crate) fn add_movement(
    so_far: Option<Tensor<1>>,
    values: Tensor<3>,
    grad: Tensor<3>,
) -> Tensor<1> {
    let step = product_sums(values, grad, false).neg();
    match so_far {
        Some(so_far) => so_far + step,
        None => step,
    }
}

/// Scores by slot, on the host.
pub(crate) fn by_slot(
    score: Score,
    values: Tensor<3>,
    grad: Tensor<3>,
    movement: Option<&Tensor<1>>,
    pattern: &BlockPattern,
) -> Vec<f32> {
    if pattern.nnz() == 0 {
        return Vec::new();
    }
    let scores = match (score, movement) {
        (Score::Movement, Some(movement)) => movement.clone(),
        (Score::Saliency, _) => product_sums(values, grad, true),
        (Score::Frobenius | Score::Movement, _) => block_norms(values.cast(DType::F32), pattern),
    };
    scores.into_data().iter::<f32>().collect()
}
