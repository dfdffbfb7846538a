//! What the optimizers of one run share: the target of each layer, the global ranking, counts for reports.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use burn_blast_kernels::budget::{LayerScores, global};
use burn_blast_kernels::{BlockPattern, PatternId};

use super::clock::StepClock;
use super::ledger::Ledger;
use super::targets::LayerTarget;
use super::{BlastConfig, BlastError, Budget, LayerSnapshot};
use crate::window::LayerId;

/// Shared by every clone of one [`Blast`](super::Blast).
#[derive(Debug, derive_new::new)]
pub(super) struct PruningRun {
    pub(super) config: BlastConfig,
    #[new(default)]
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    targets: Vec<LayerTarget>,
    counts: Vec<LayerSnapshot>,
    clock: StepClock,
    ledger: Option<Ledger>,
    /// Layers whose counts follow the optimizer state.
    recounted: HashSet<LayerId>,
    /// Update that `scores` are for.
    ranked_update: usize,
    /// Scores for the coming global ranking, by layer; `None` until the layer has submitted them.
    scores: Vec<Option<LayerScores>>,
    /// Latest pattern of each layer that leads others, with its step.
    published: HashMap<LayerId, (usize, BlockPattern)>,
    /// Step of the latest update of each replicated layer, and the pattern that its first replica took.
    replicas: HashMap<LayerId, (usize, PatternId)>,
}

impl PruningRun {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Sets the layers of the model.
    ///
    /// # Errors
    /// If there is a model already.
    pub(super) fn attach(
        &self,
        counts: Vec<LayerSnapshot>,
        targets: Vec<LayerTarget>,
    ) -> Result<(), BlastError> {
        let mut state = self.lock();
        if !state.targets.is_empty() {
            return Err(BlastError::AlreadyAttached);
        }
        (state.targets, state.counts) = (targets, counts);
        Ok(())
    }

    pub(super) fn set_ledger(&self, ledger: Ledger) {
        self.lock().ledger = Some(ledger);
    }

    pub(super) fn target(&self, layer: LayerId) -> LayerTarget {
        self.lock().targets[layer.0].clone()
    }

    /// Counts a step of one layer and returns its number.
    pub(super) fn tick(&self, layer: LayerId, layer_steps: usize) -> usize {
        let mut state = self.lock();
        let first = state.clock.step() == 0;
        let step = state.clock.tick(layer, layer_steps);
        if first && let Some(ledger) = &state.ledger {
            ledger.resume_at(step);
        }
        step
    }

    /// Submits the scores of a layer to the global ranking of an update.
    pub(super) fn submit_scores(&self, update: usize, layer: LayerId, scores: LayerScores) {
        let mut state = self.lock();
        if state.ranked_update != update {
            state.ranked_update = update;
            state.scores = vec![None; state.targets.len()];
        }
        state.scores[layer.0] = Some(scores);
    }

    /// Blocks that a layer keeps by the global ranking of an update, once every pruned layer has submitted its scores.
    pub(super) fn resolve_count(&self, update: usize, layer: LayerId) -> Option<usize> {
        let Budget::Global { min_density, max_density } = self.config.budget else {
            return None;
        };
        let state = self.lock();
        if state.ranked_update != update {
            return None;
        }
        let ranked =
            |at: &usize| state.targets[*at].sparsity.is_some() && !state.targets[*at].fixed;
        let pruned: Vec<usize> = (0..state.targets.len()).filter(ranked).collect();
        let scores: Option<Vec<LayerScores>> =
            pruned.iter().map(|&at| state.scores[at].clone()).collect();
        let kept = global(&scores?, min_density, max_density);
        pruned.iter().position(|&at| at == layer.0).map(|at| kept[at])
    }

    /// Publishes the new pattern of a layer for the layers that adopt it, which come later in the same step.
    pub(super) fn publish(&self, layer: LayerId, step: usize, pattern: &BlockPattern) {
        let mut state = self.lock();
        if state.targets.iter().any(|target| target.leader == Some(layer)) {
            state.published.insert(layer, (step, pattern.clone()));
        }
    }

    /// The pattern that a layer has published in this step, if it has.
    pub(super) fn published(&self, leader: LayerId, step: usize) -> Option<BlockPattern> {
        let state = self.lock();
        let (published_at, pattern) = state.published.get(&leader)?;
        (*published_at == step).then(|| pattern.clone())
    }

    /// Sets the counts of a layer after an update, and writes them to the ledger.
    pub(super) fn report(&self, layer: LayerId, counts: LayerSnapshot) {
        let mut state = self.lock();
        // Replicas of a layer report the same update.
        let new = state.counts[layer.0].step < counts.step;
        if new && let Some(ledger) = &state.ledger {
            ledger.write(&counts);
        }
        state.counts[layer.0] = counts;
    }

    /// Corrects the counts of a plain layer, once, whose kept blocks came with the optimizer state.
    pub(super) fn recount(&self, layer: LayerId, counts: impl FnOnce() -> LayerSnapshot) {
        let mut state = self.lock();
        if state.recounted.insert(layer) && state.counts[layer.0].step == 0 {
            state.counts[layer.0] = counts();
        }
    }

    /// Checks the pattern that a replica of a layer took at an update against the first replica.
    ///
    /// # Errors
    /// If they differ. Gradients are reduced in every step, so no replica is a whole step ahead.
    pub(super) fn check_replica(
        &self,
        layer: LayerId,
        step: usize,
        pattern: PatternId,
    ) -> Result<(), BlastError> {
        let mut state = self.lock();
        let first = *state.replicas.get(&layer).unwrap_or(&(0, pattern));
        if first.0 == step && first.1 != pattern {
            return Err(BlastError::ReplicasDiffer { layer: state.targets[layer.0].name.clone() });
        }
        if first.0 < step {
            state.replicas.insert(layer, (step, pattern));
        }
        Ok(())
    }
}

/// Counts over all layers after the latest update.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Optimizer steps taken.
    pub step: usize,
    /// Share of blocks removed from the layers that are pruned.
    pub sparsity: f64,
    /// Blocks dropped and added by the latest update, divided by the blocks kept; may be above 1.
    pub churn: f64,
    /// Bytes of all block-sparse weights and their indices.
    pub weight_bytes: usize,
    /// Bytes of the same weights dense.
    pub dense_bytes: usize,
    /// Every layer, in the order of the model.
    pub layers: Vec<LayerSnapshot>,
}

/// A view of a run for progress bars, metrics and plots. Cheap to clone and readable from any thread.
#[derive(Debug, Clone)]
pub struct Monitor(pub(super) Arc<PruningRun>);

impl Monitor {
    /// The counts now.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.0.lock();
        let (step, layers) = (state.clock.step(), state.counts.clone());
        drop(state);
        let pruned = || layers.iter().filter(|layer| !layer.dense);
        let sum = |count: fn(&LayerSnapshot) -> usize| pruned().map(count).sum::<usize>() as f64;
        let (kept, blocks) = (sum(|layer| layer.kept), sum(|layer| layer.blocks));
        let moved = sum(|layer| layer.dropped + layer.added);
        Snapshot {
            step,
            sparsity: if blocks > 0.0 { 1.0 - kept / blocks } else { 0.0 },
            churn: if kept > 0.0 { moved / kept } else { 0.0 },
            weight_bytes: layers.iter().map(|layer| layer.bytes).sum(),
            dense_bytes: layers.iter().map(|layer| layer.dense_bytes).sum(),
            layers,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn_blast_kernels::{BlockSize, MatrixShape};

    use super::*;

    #[test]
    fn replicas_that_took_another_pattern_at_the_same_step_are_named() {
        let (shape, block) = (MatrixShape::new(32, 32).unwrap(), BlockSize::new(8).unwrap());
        let run = PruningRun::new(BlastConfig::new(10));
        let target = |at, name: &str| LayerTarget {
            layer: LayerId(at),
            name: name.to_string(),
            shape,
            block,
            sparsity: Some(0.5),
            fixed: false,
            masked: false,
            leader: None,
        };
        run.lock().targets = vec![target(0, "a"), target(1, "b")];
        let check = |layer, step, seed| {
            let pattern = BlockPattern::random(shape, block, 0.5, seed).id();
            run.check_replica(LayerId(layer), step, pattern)
        };
        for (layer, step, seed) in
            [(0, 5, 1), (1, 5, 2), (0, 5, 1), (1, 10, 3), (0, 10, 4), (1, 10, 3)]
        {
            check(layer, step, seed).unwrap();
        }
        let error = check(0, 10, 5).unwrap_err();
        assert!(matches!(&error, BlastError::ReplicasDiffer { layer } if layer == "a"), "{error}");
        assert!(error.to_string().contains("reduce gradients before the optimizer steps"));
    }
}
