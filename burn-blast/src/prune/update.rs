//! One update of one layer: from scores to the next pattern.

use burn::tensor::Tensor;
use burn_blast_kernels::budget::{LayerScores, kept_blocks};
use burn_blast_kernels::{BlockMask, BlockPattern};

use super::plan::LayerPlan;
use super::select::{Ranked, grow, mix};
use super::shared::Shared;
use super::{BlastConfig, BlastState, Budget, KeepRule, LayerSnapshot};
use crate::window::LayerId;

/// Steps before an update at which a global budget gathers scores. A resumed run has the two steps between to submit
/// all recorded scores again.
const GATHER_AHEAD: usize = 3;

/// Blocks that a layer keeps at a step by its own target; at least one.
fn own_count<S>(
    config: &BlastConfig,
    plan: &LayerPlan,
    state: &BlastState<S>,
    step: usize,
    target: f64,
) -> usize {
    let start = 1.0 - state.start_kept as f64 / plan.blocks() as f64;
    kept_blocks(config.sparsity_at(step, start, target), plan.blocks())
}

/// Takes part in the global ranking of the coming update: gathers scores three steps ahead, submits them until every
/// layer has, then resolves how many blocks to keep.
pub(super) fn rank_globally<S>(
    shared: &Shared,
    layer: LayerId,
    target: f64,
    state: &mut BlastState<S>,
    scores: impl FnOnce(Option<&Tensor<1>>) -> Vec<f32>,
) {
    let config = &shared.config;
    let plan = shared.plan(layer);
    if plan.fixed || !matches!(config.budget, Budget::Global { .. }) {
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
    let uniform_count = own_count(config, &plan, state, update, target);
    let scores = LayerScores { scores, blocks: plan.blocks(), uniform_count };
    // A layer with a resolved count submits again: in a resumed run other layers may still wait for it.
    shared.submit_scores(update, layer, scores);
    if state.next_keep.is_none() {
        state.next_keep = shared.resolve_count(update, layer);
    }
}

/// Selects the blocks to keep from now on.
pub(super) fn next_mask<S>(
    config: &BlastConfig,
    plan: &LayerPlan,
    layer: LayerId,
    state: &mut BlastState<S>,
    ranked: &Ranked<'_>,
    target: f64,
) -> BlockMask {
    let step = state.step;
    let own = own_count(config, plan, state, step, target);
    let global = matches!(config.budget, Budget::Global { .. }) && !plan.fixed;
    if global && state.next_keep.is_none() {
        log::warn!(
            "{}: the global ranking is not complete, so the layer keeps its uniform share",
            plan.name
        );
    }
    let keep = state.next_keep.take().unwrap_or(own);
    state.gathered = None;
    let exchange = (config.growth_at(step) * keep as f64).round() as usize;
    // The last update must land on the target.
    let last = step >= config.last_update();
    let rule = if last { KeepRule::Exact } else { config.keep };
    grow(ranked, keep, exchange, config.growth, rule, mix(config.seed, step, layer.0))
}

/// The old slot of every slot of a new pattern. A new block has none.
pub(super) fn sources(old: &BlockPattern, new: &BlockPattern) -> Vec<Option<u32>> {
    let slots = old.slots_by_index();
    new.blocks().map(|(row, col)| slots[row * new.block_cols() + col]).collect()
}

/// Counts of an update.
pub(super) fn counts(
    plan: &LayerPlan,
    step: usize,
    old: &BlockMask,
    new: &BlockPattern,
) -> LayerSnapshot {
    let mask = BlockMask::from(new);
    let survivors = old.intersection(&mask).count();
    let dense_bytes = plan.shape.area() * size_of::<f32>();
    let packed = new.value_count() * size_of::<f32>() + new.index_bytes();
    LayerSnapshot {
        step,
        name: plan.name.clone(),
        dense: plan.target.is_none(),
        blocks: plan.blocks(),
        kept: new.nnz(),
        pruned: old.count() - survivors,
        regrown: new.nnz() - survivors,
        survivors,
        bytes: if plan.masked { dense_bytes } else { packed },
        dense_bytes,
    }
}
