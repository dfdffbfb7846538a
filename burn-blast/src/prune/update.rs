//! One update of one layer: from scores to the next pattern.

use burn::tensor::Tensor;
use burn_blast_kernels::budget::{LayerScores, kept_blocks};
use burn_blast_kernels::{BlockMask, BlockPattern};

use super::run::PruningRun;
use super::select::{Ranked, mix, select_mask};
use super::targets::LayerTarget;
use super::{BlastConfig, BlastState, Budget, KeepRule, LayerSnapshot};

/// Steps before an update at which a global budget gathers scores. A resumed run has the two steps between to submit
/// all recorded scores again.
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

/// Takes part in the global ranking of the coming update: gathers scores three steps ahead, submits them until every
/// layer has, then resolves how many blocks to keep.
pub(super) fn rank_globally<S>(
    run: &PruningRun,
    target: &LayerTarget,
    sparsity: f64,
    state: &mut BlastState<S>,
    scores: impl FnOnce(Option<&Tensor<1>>) -> Vec<f32>,
) {
    let config = &run.config;
    if target.fixed || !matches!(config.budget, Budget::Global { .. }) {
        return;
    }
    let step = state.step;
    let Some(update) = (step + 1..=step + GATHER_AHEAD).find(|&step| config.is_update(step)) else {
        return;
    };
    if update == step + GATHER_AHEAD || state.gathered.is_none() {
        state.gathered = Some(scores(state.movement.as_ref()));
        state.next_keep = None;
    }
    let Some(scores) = state.gathered.clone() else { return };
    let uniform_count = own_count(config, target, sparsity, state, update);
    let scores = LayerScores { scores, blocks: target.blocks(), uniform_count };
    // A layer with a resolved count submits again: in a resumed run other layers may still wait for it.
    run.submit_scores(update, target.layer, scores);
    if state.next_keep.is_none() {
        state.next_keep = run.resolve_count(update, target.layer);
    }
}

/// Selects the blocks to keep from now on.
pub(super) fn next_mask<S>(
    config: &BlastConfig,
    target: &LayerTarget,
    sparsity: f64,
    state: &mut BlastState<S>,
    ranked: &Ranked<'_>,
) -> BlockMask {
    let step = state.step;
    if matches!(config.budget, Budget::Global { .. }) && !target.fixed && state.next_keep.is_none()
    {
        log::warn!(
            "{}: the global ranking is not complete, so the layer keeps its uniform share",
            target.name
        );
    }
    let own = own_count(config, target, sparsity, state, step);
    let keep = state.next_keep.take().unwrap_or(own);
    state.gathered = None;
    let exchange = (config.growth_at(step) * keep as f64).round() as usize;
    // The last update must land on the target.
    let rule = if step >= config.last_update() { KeepRule::Exact } else { config.keep };
    let seed = mix(config.seed, step, target.layer.0);
    select_mask(ranked, keep, exchange, config.growth, rule, seed)
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
