//! Removing whole groups of hidden features.

use burn::module::Param;
use burn::tensor::{Int, Tensor};
use burn_blast::module::{AnyLinear, BlockSparseLinear, BlockSparseWeight};
use burn_blast::{BlockMask, BlockPattern, BlockSize, MatrixShape};
use burn_blast_kernels::budget::{LayerScores, global, keep_top, kept_blocks};

use crate::{Blocks, Error, Importance, Model};

/// Least share of its groups that a layer keeps. On SmolLM2 a layer without any would have been chosen at 70 %.
const FLOOR: f64 = 0.08;

/// Sorts the hidden features of each MLP by their importance, most important first, which changes no output, and keeps the
/// most important groups of `blocks.block` features: in all layers together as many as `blocks.sparsity` leaves, and in
/// each at least some. A group is a block column of the layers before the activation and a block row of the one after it.
pub(super) fn cut(
    model: &mut Model,
    importance: &Importance,
    blocks: &Blocks,
    done: &mut dyn FnMut(),
) -> Result<(), Error> {
    let block = BlockSize::new(blocks.block)?;
    let pruned = model.layers() - blocks.dense_last;
    let features = &importance.hidden[..pruned];
    let orders: Vec<Vec<usize>> =
        features.iter().map(|scores| keep_top(scores, scores.len())).collect();
    let mut layers: Vec<LayerScores> =
        features.iter().zip(&orders).map(|(scores, order)| groups(scores, order, blocks)).collect();
    // Rounded in sum, not layer by layer.
    let (mut so_far, mut left) = (0, 0);
    for layer in &mut layers {
        so_far += layer.blocks;
        let before = left;
        left = kept_blocks(blocks.sparsity, so_far);
        layer.uniform_count = left - before;
    }
    let kept = global(&layers, FLOOR, 1.0);
    let groups: usize = layers.iter().map(|layer| layer.blocks).sum();
    check_smaller(model, blocks, kept.iter().sum::<usize>() as f64 / groups as f64)?;
    let out = model.family().mlp_layers().1;
    for (name, linear) in model.mlps_mut(blocks.dense_last) {
        let layer = super::layer_of(&name).expect("a layer of an MLP has a number");
        let order: Vec<i32> = orders[layer].iter().map(|at| *at as i32).collect();
        let order = Tensor::<1, Int>::from_data(order.as_slice(), &linear.to_dense().device());
        *linear = narrow(linear, order, kept[layer], name.ends_with(out), block)?;
        done();
    }
    Ok(())
}

/// Refuses to keep more in sum than there is, which would bring blocks back as zeros. `kept` is the share of groups that stays.
fn check_smaller(model: &mut Model, blocks: &Blocks, kept: f64) -> Result<(), Error> {
    let (mut held, mut all) = (0, 0);
    for (_, linear) in model.mlps_mut(blocks.dense_last) {
        let area = linear.shape().iter().product::<usize>();
        held += match linear {
            AnyLinear::Sparse(layer) => area.min(layer.pattern().value_count()),
            _ => area,
        };
        all += area;
    }
    let held = held as f64 / all as f64;
    if kept <= held + 1e-9 {
        return Ok(());
    }
    let removed = 100.0 * (1.0 - held);
    let expected = format!(
        "at least the {removed:.1} % of the MLPs that is removed already; `blast densify` makes a dense model of this one"
    );
    Err(Error::setting("sparsity", blocks.sparsity, &expected))
}

/// The scores of the groups of one layer.
fn groups(scores: &[f32], order: &[usize], blocks: &Blocks) -> LayerScores {
    let sum = |group: &[usize]| group.iter().map(|at| f64::from(scores[*at])).sum::<f64>() as f32;
    let scores: Vec<f32> = order.chunks(blocks.block).map(sum).collect();
    LayerScores { blocks: scores.len(), scores, uniform_count: 0 }
}

/// The layer with its hidden features in another order, and the first `kept` groups of them. `reads`: they are its
/// inputs.
fn narrow(
    linear: &AnyLinear,
    order: Tensor<1, Int>,
    kept: usize,
    reads: bool,
    block: BlockSize,
) -> Result<AnyLinear, Error> {
    let weight = linear.to_dense().select(usize::from(!reads), order.clone());
    let bias = match linear.bias() {
        Some(bias) if !reads => Some(Param::from_tensor(bias.val().select(0, order))),
        bias => bias,
    };
    let [rows, cols] = weight.dims();
    let shape = MatrixShape::new(rows, cols)?;
    let width = shape.block_cols(block);
    let is_kept = |at: &usize| (if reads { at / width } else { at % width }) < kept;
    let indices = (0..shape.block_rows(block) * width).filter(is_kept);
    let pattern = BlockPattern::from_mask(&BlockMask::from_indices(shape, block, indices));
    let weight = BlockSparseWeight::from_dense(weight, pattern);
    Ok(AnyLinear::Sparse(BlockSparseLinear::new(weight, bias)))
}
