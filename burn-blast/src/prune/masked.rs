//! Plain linear weights, pruned in place: dropped blocks are set to zero, and the product stays dense.
//!
//! [`BlockSparseLinear::from_linear`](crate::module::BlockSparseLinear::from_linear) packs the blocks that are left.

use burn::optim::LearningRate;
use burn::tensor::Tensor;
use burn_blast_kernels::{BlockMask, BlockPattern, BlockSize, MatrixShape};

use super::optimizer::move_state;
use super::score::{self, Measured};
use super::targets::LayerTarget;
use super::update::{counts, rank_ahead, reads_gradients, sources};
use super::{Blast, BlastState, BlockOptimizer};
use crate::functions::{dense_block_norms, pack, unpack};
use crate::ops::packed;
use crate::window::LayerId;

impl<O: BlockOptimizer> Blast<O> {
    /// One step of a plain weight, `[d_input, d_output]`.
    pub(super) fn step_masked<const D: usize>(
        &self,
        lr: LearningRate,
        weight: Tensor<D>,
        grad: Tensor<D>,
        state: Option<BlastState<O::State<D>>>,
        layer: LayerId,
    ) -> (Tensor<D>, BlastState<O::State<D>>) {
        let config = &self.run.config;
        let target = self.run.target(layer);
        let mut state = state.unwrap_or_else(|| start(&matrix(&weight, &target), &target));
        let before = self.run.tick(layer, &mut state);
        let Some(sparsity) = target.sparsity else {
            let (weight, inner) = self.inner.step(lr, weight, grad, state.inner.take());
            return (weight, BlastState { inner, ..state });
        };
        let pattern = kept_pattern(&target, state.kept.as_deref());
        self.run.publish_loaded(layer, before, &pattern);
        self.run.recount(layer, || counts(&target, 0, &BlockMask::from(&pattern), &pattern));
        let blocks = |tensor: &Tensor<D>| pack(matrix(tensor, &target), &pattern);
        let so_far = state.running.take();
        if score::is_running(config) {
            state.running = score::add_step(config, so_far, blocks(&weight), blocks(&grad));
        }
        let inner = state.inner.take();
        let lr = config.scaled_lr(lr, &pattern);
        let (mut weight, inner) = match &state.kept {
            // No block is dropped yet.
            None => self.inner.step(lr, weight, grad.clone(), inner),
            Some(_) => {
                let keep = mask_like(&weight, &pattern);
                let masked = grad.clone() * keep.clone();
                let (weight, inner) = self.inner.step(lr, weight, masked, inner);
                (weight * keep, inner)
            }
        };
        state.inner = inner;

        let second_moment = self.second_moment(&state);
        let scores = |running: Option<&Tensor<1>>| {
            let (values, grad) = (blocks(&weight), blocks(&grad));
            let second_moment = second_moment.map(|squares| blocks(&squares));
            let measured = Measured { values, grad, second_moment, running };
            score::by_slot(config.score, measured, &pattern)
        };
        if let Some(due) = self.due(&target, before, state.step) {
            let norms = || dense_block_norms(matrix(&grad, &target), target.block);
            let gradients = reads_gradients(config, &target, due.update).then(norms);
            let gradients = gradients.as_deref();
            let next =
                self.next_pattern(&target, sparsity, &mut state, &pattern, scores, gradients, due);
            let both = BlockMask::from(&pattern).intersection(&BlockMask::from(&next));
            let survivors = mask_like(&weight, &BlockPattern::from_mask(&both));
            // Master weights and moments may have another type than the weight.
            move_state::<O, D>(&mut state, &weight, |tensor| {
                let dtype = tensor.dtype();
                tensor * survivors.clone().cast(dtype)
            });
            let moved = sources(&pattern, &next);
            state.move_blocks(&moved, config.grace > 0);
            weight = weight * survivors;
            state.kept = Some(BlockMask::from(&next).indices().map(|at| at as u32).collect());
        } else {
            let by_gradient = reads_gradients(config, &target, state.step);
            let norms =
                || by_gradient.then(|| dense_block_norms(matrix(&grad, &target), target.block));
            let rankings = |running: Option<&Tensor<1>>| (scores(running), norms());
            rank_ahead(&self.run, &target, sparsity, &mut state, &pattern, rankings);
        }
        (weight, state)
    }
}

/// The state before the first step: blocks that are zero are dropped already.
fn start<S>(weight: &Tensor<2>, target: &LayerTarget) -> BlastState<S> {
    let kept = filled_blocks(weight, target.shape, target.block);
    let count = kept.as_ref().map_or(target.blocks(), BlockMask::count);
    let kept = kept.map(|mask| mask.indices().map(|at| at as u32).collect());
    BlastState { kept, ..BlastState::new(count) }
}

/// The blocks of a plain weight that hold anything but zeros, if there are others too. A weight of nothing but zeros has
/// yet to learn.
pub(super) fn filled_blocks(
    weight: &Tensor<2>,
    shape: MatrixShape,
    block: BlockSize,
) -> Option<BlockMask> {
    let norms = dense_block_norms(weight.clone(), block);
    let filled = (0..norms.len()).filter(|&at| norms[at] != 0.0);
    let mask = BlockMask::from_indices(shape, block, filled);
    (0 < mask.count() && mask.count() < norms.len()).then_some(mask)
}

fn kept_pattern(target: &LayerTarget, kept: Option<&[u32]>) -> BlockPattern {
    match kept {
        None => BlockPattern::dense(target.shape, target.block),
        Some(kept) => {
            // Recorded state is checked here, where the size of the grid is known.
            let kept = kept.iter().map(|&at| at as usize).filter(|&at| at < target.blocks());
            BlockPattern::from_mask(&BlockMask::from_indices(target.shape, target.block, kept))
        }
    }
}

fn matrix<const D: usize>(tensor: &Tensor<D>, target: &LayerTarget) -> Tensor<2> {
    tensor.clone().reshape([target.shape.rows(), target.shape.cols()])
}

/// Ones in the kept blocks and zeros elsewhere, in the shape of `tensor`.
fn mask_like<const D: usize>(tensor: &Tensor<D>, pattern: &BlockPattern) -> Tensor<D> {
    let ones = Tensor::<3>::ones(packed(pattern), (&tensor.device(), tensor.dtype()));
    unpack(ones, pattern).reshape(tensor.shape())
}
