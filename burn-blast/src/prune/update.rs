//! One update of one layer: from scores to the next pattern.

use burn::tensor::Tensor;
use burn_blast_kernels::budget::kept_blocks;
use burn_blast_kernels::{BlockMask, BlockPattern};

use super::run::{PruningRun, Submission};
use super::select::{Ranked, mix, select_mask};
use super::state::Next;
use super::targets::LayerTarget;
use super::{BlastConfig, BlastState, Budget, Growth, KeepRule, LayerSnapshot, Structure};

/// Steps before an update at which layers that depend on each other gather rankings. A resumed run has the two steps
/// between to submit all that is recorded again.
const GATHER_AHEAD: usize = 3;

/// Blocks that a layer keeps at a step by its own target; at least one.
fn own_count<S>(
    config: &BlastConfig,
    target: &LayerTarget,
    sparsity: f64,
    state: &BlastState<S>,
    step: usize,
) -> usize {
    let start = 1.0 - state.start_kept as f64 / target.blocks() as f64;
    kept_blocks(config.sparsity_at(step, start, sparsity), target.blocks())
}

/// Whether a layer reads gradient norms at a step: at an update, or ahead of it if it selects with others.
pub(super) fn reads_gradients(config: &BlastConfig, target: &LayerTarget, step: usize) -> bool {
    let ahead = if target.coupled { GATHER_AHEAD } else { 0 };
    let reads = !target.coupled || config.structure == Structure::Coupled;
    reads && config.growth == Growth::Gradient && target.selects() && config.is_update(step + ahead)
}

/// Takes part in a coming update that depends on several layers: gathers rankings three steps ahead, submits them until
/// every layer has, then resolves what to keep.
pub(super) fn rank_ahead<S>(
    run: &PruningRun,
    target: &LayerTarget,
    sparsity: f64,
    state: &mut BlastState<S>,
    pattern: &BlockPattern,
    rankings: impl FnOnce(Option<&Tensor<1>>) -> (Vec<f32>, Option<Vec<f32>>),
) {
    let config = &run.config;
    if !ranks_ahead(config, target) {
        return;
    }
    let step = state.step;
    let Some(update) = (step + 1..=step + GATHER_AHEAD).find(|&step| config.is_update(step)) else {
        // What an update left behind that the layer has missed.
        (state.gathered, state.gathered_norms, state.next) = (None, None, None);
        return;
    };
    if update == step + GATHER_AHEAD || state.gathered.is_none() {
        let (mut scores, norms) = rankings(state.running.as_ref());
        state.protect(&mut scores, update, config.grace);
        (state.gathered, state.gathered_norms) = (Some(scores), norms);
        state.next = None;
    }
    let Some(scores) = state.gathered.clone() else { return };
    let uniform_count = own_count(config, target, sparsity, state, update);
    // A record may hold any number of norms.
    let gradients = state.gathered_norms.clone().filter(|norms| norms.len() == target.blocks());
    let pattern = pattern.clone();
    // A layer that is resolved submits again: in a resumed run other layers may still wait for it.
    run.submit(update, target.layer, Submission { pattern, scores, gradients, uniform_count });
    if state.next.is_none() {
        state.next = run.resolve(update, target.layer);
    }
}

/// Whether what a layer keeps depends on other layers.
fn ranks_ahead(config: &BlastConfig, target: &LayerTarget) -> bool {
    target.coupled || (matches!(config.budget, Budget::Global { .. }) && !target.fixed)
}

/// An update that a layer takes part in now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    /// Step that the layer took before this one.
    pub(super) before: usize,
    /// Step of the update: this one, or an earlier one in which the layer had no gradient.
    pub(super) update: usize,
}

/// Selects the blocks to keep from now on.
pub(super) fn next_mask<S>(
    config: &BlastConfig,
    target: &LayerTarget,
    sparsity: f64,
    state: &mut BlastState<S>,
    ranked: &Ranked<'_>,
    due: Due,
) -> BlockMask {
    let step = due.update;
    if config.update_due(due.before, step - 1).is_some() {
        // What was gathered was for an update before the latest one that was missed.
        (state.next, state.gathered_norms) = (None, None);
    }
    state.gathered = None;
    // A layer whose partners are missing selects alone, by the norms that it gathered ahead.
    let norms = state.gathered_norms.take();
    let ranked = Ranked { gradients: ranked.gradients.or(norms.as_deref()), ..ranked.clone() };
    let own = own_count(config, target, sparsity, state, step);
    let keep = match state.next.take() {
        Some(Next::Blocks(blocks)) => {
            let blocks = blocks.into_iter().map(|block| block as usize);
            // A record may hold any numbers.
            let blocks = blocks.filter(|&block| block < target.blocks());
            return BlockMask::from_indices(target.shape, target.block, blocks);
        }
        Some(Next::Count(count)) => count,
        None => {
            if ranks_ahead(config, target) {
                log::warn!(
                    "{}: not every layer has submitted its scores, so the layer keeps its uniform share",
                    target.name
                );
            }
            own
        }
    };
    let exchange = (config.growth_at(step) * keep as f64).round() as usize;
    // The last update must land on the target.
    let rule = if step >= config.last_update() { KeepRule::Exact } else { config.keep };
    let seed = mix(config.seed, step, target.layer.0);
    select_mask(&ranked, keep, exchange, config.growth, rule, seed)
}

/// The old slot of every slot of a new pattern. A new block has none.
pub(super) fn sources(old: &BlockPattern, new: &BlockPattern) -> Vec<Option<u32>> {
    let slots = old.slots_by_index();
    new.blocks().map(|(row, col)| slots[row * new.block_cols() + col]).collect()
}

/// Counts of an update.
pub(super) fn counts(
    target: &LayerTarget,
    step: usize,
    old: &BlockMask,
    new: &BlockPattern,
) -> LayerSnapshot {
    let mask = BlockMask::from(new);
    let survivors = old.intersection(&mask).count();
    let dense_bytes = target.shape.area() * size_of::<f32>();
    let packed = new.value_count() * size_of::<f32>() + new.index_bytes();
    LayerSnapshot {
        step,
        name: target.name.clone(),
        dense: target.sparsity.is_none(),
        blocks: target.blocks(),
        kept: new.nnz(),
        dropped: old.count() - survivors,
        added: new.nnz() - survivors,
        survivors,
        bytes: if target.masked { dense_bytes } else { packed },
        dense_bytes,
    }
}
