//! One update of one layer: from scores to the next pattern, and what moves with it.

use burn::tensor::Tensor;
use burn_blast_kernels::budget::{LayerScores, kept_blocks};
use burn_blast_kernels::{BlockMask, BlockPattern};

use super::select::{Ranked, grow, mix};
use super::shared::{LayerPlan, LayerSnapshot, Shared};
use super::{BlastConfig, BlastState, Budget, KeepRule};

/// Steps before an update at which a global budget gathers scores. The two steps between leave a resumed
/// run time to bring all recorded scores together again.
const GATHER_AHEAD: usize = 3;

/// Blocks a layer keeps at a step by its own target; at least one.
pub(crate) fn own_share<S>(
    config: &BlastConfig,
    plan: &LayerPlan,
    state: &BlastState<S>,
    step: usize,
    target: f64,
) -> usize {
    let start = 1.0 - state.start_kept as f64 / plan.blocks() as f64;
    kept_blocks(config.sparsity_at(step, start, target), plan.blocks())
}

/// Takes part in the global ranking of the coming update: gathers scores three steps ahead, brings them
/// until every layer has, then settles how many blocks to keep.
pub(crate) fn contend<S>(
    shared: &Shared,
    layer: usize,
    target: f64,
    state: &mut BlastState<S>,
    scores: impl FnOnce(Option<&Tensor<1>>) -> Vec<f32>,
) {
    let config = &shared.config;
    let plan = shared.lock().plans[layer].clone();
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
    let Some(gathered) = state.gathered.clone() else { return };
    let uniform_count = own_share(config, &plan, state, update, target);
    // A layer that has settled goes on contending: in a resumed run others may still wait for it.
    shared.contend(
        update,
        layer,
        LayerScores { scores: gathered, blocks: plan.blocks(), uniform_count },
    );
    if state.next_keep.is_none() {
        state.next_keep = shared.settle(update, layer);
    }
}

/// The blocks to keep from now on.
pub(crate) fn next_mask<S>(
    config: &BlastConfig,
    plan: &LayerPlan,
    layer: usize,
    state: &mut BlastState<S>,
    ranked: &Ranked<'_>,
    target: f64,
) -> BlockMask {
    let step = state.step;
    let own = own_share(config, plan, state, step, target);
    let ranked_globally = matches!(config.budget, Budget::Global { .. }) && !plan.fixed;
    if ranked_globally && state.next_keep.is_none() {
        log::warn!(
            "{}: the global ranking is not complete, the layer keeps its own share",
            plan.name
        );
    }
    let keep = state.next_keep.take().unwrap_or(own);
    state.gathered = None;
    let exchange = (config.growth_at(step) * keep as f64).round() as usize;
    // The last update must land on the target.
    let last = step >= config.last_update();
    let rule = if last { KeepRule::Exact } else { config.keep };
    grow(ranked, keep, exchange, config.growth, rule, mix(config.seed, step, layer))
}

/// Where each slot of a new pattern comes from in the old one; a new block has no source.
pub(crate) fn sources(old: &BlockPattern, new: &BlockPattern) -> Vec<Option<u32>> {
    let slots = old.slots_by_index();
    new.blocks().map(|(row, col)| slots[row * new.block_cols() + col]).collect()
}

/// Counts of an update.
pub(crate) fn counts(
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
