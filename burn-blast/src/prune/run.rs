//! What the optimizers of one run share: the target of each layer, the global ranking, counts for reports.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use burn_blast_kernels::budget::{LayerScores, global};
use burn_blast_kernels::{BlockMask, BlockPattern, PatternId};

use super::clock::StepClock;
use super::coupled::{Member, blocks_in_groups, whole_groups};
use super::ledger::Ledger;
use super::select::{Ranked, mix};
use super::state::Next;
use super::structure::Coupled;
use super::targets::LayerTarget;
use super::{BlastConfig, BlastError, BlastState, Budget, LayerSnapshot, Structure};
use crate::functions::by_block;
use crate::window::LayerId;

/// What a layer submits to an update that depends on several layers.
#[derive(Debug, Clone)]
pub(super) struct Submission {
    /// Blocks kept so far.
    pub(super) pattern: BlockPattern,
    /// Their scores, by slot.
    pub(super) scores: Vec<f32>,
    /// Gradient norm of each block number, if known.
    pub(super) gradients: Option<Vec<f32>>,
    /// Blocks that the layer keeps by its own target.
    pub(super) uniform_count: usize,
}

/// Shared by every clone of one [`Blast`](super::Blast).
#[derive(Debug, derive_new::new)]
pub(super) struct PruningRun {
    pub(super) config: BlastConfig,
    /// The number of the current step.
    #[new(default)]
    step: Arc<AtomicUsize>,
    #[new(default)]
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    targets: Vec<LayerTarget>,
    counts: Vec<LayerSnapshot>,
    clock: StepClock,
    ledger: Option<Ledger>,
    /// Layers that took a step.
    stepped: HashSet<LayerId>,
    /// The first of them, and the number of that step.
    first: Option<(LayerId, usize)>,
    /// Whether the layers that took no step were looked for.
    idle_told: bool,
    /// Layers whose counts follow the optimizer state.
    recounted: HashSet<LayerId>,
    couplings: Vec<Coupled>,
    /// Update that `submitted` and `selected` are for.
    ranked_update: usize,
    /// Rankings for the coming update, by layer; `None` until the layer has submitted them.
    submitted: Vec<Option<Submission>>,
    /// Blocks of the members of each coupling at the coming update, once selected.
    selected: HashMap<usize, Vec<BlockMask>>,
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
        couplings: Vec<Coupled>,
    ) -> Result<(), BlastError> {
        let mut state = self.lock();
        if !state.targets.is_empty() {
            return Err(BlastError::AlreadyAttached);
        }
        (state.targets, state.counts, state.couplings) = (targets, counts, couplings);
        Ok(())
    }

    pub(super) fn set_ledger(&self, ledger: Ledger) {
        self.lock().ledger = Some(ledger);
    }

    pub(super) fn target(&self, layer: LayerId) -> LayerTarget {
        self.lock().targets[layer.0].clone()
    }

    /// Counts a step of one layer, which has the number of the step then. Returns the number of its step before.
    pub(super) fn tick<S>(&self, layer: LayerId, layer_state: &mut BlastState<S>) -> usize {
        let mut state = self.lock();
        let first = state.clock.step() == 0;
        // A loaded state says how far the run was.
        let so_far = if first { layer_state.run_step.load(Relaxed) } else { 0 };
        let before = layer_state.step;
        let step = state.clock.tick(layer, before.max(so_far));
        self.step.store(step, Relaxed);
        (layer_state.step, layer_state.run_step) = (step, self.step.clone());
        if first && let Some(ledger) = &state.ledger {
            ledger.resume_at(step);
        }
        state.tell_idle(layer, step, &self.config);
        before
    }

    /// Submits the rankings of a layer to an update.
    pub(super) fn submit(&self, update: usize, layer: LayerId, submission: Submission) {
        let mut state = self.lock();
        if state.ranked_update != update {
            state.ranked_update = update;
            state.submitted = vec![None; state.targets.len()];
            state.selected.clear();
        }
        state.submitted[layer.0] = Some(submission);
    }

    /// What an update does to a layer, once every layer that this depends on has submitted its rankings.
    pub(super) fn resolve(&self, update: usize, layer: LayerId) -> Option<Next> {
        let mut state = self.lock();
        if state.ranked_update != update {
            return None;
        }
        let coupling = state.couplings.iter().position(|coupled| coupled.position(layer).is_some());
        let Some(coupling) = coupling else {
            return state.count(&self.config, layer).map(Next::Count);
        };
        if !state.selected.contains_key(&coupling) {
            let masks = state.select(&self.config, update, &state.couplings[coupling])?;
            state.selected.insert(coupling, masks);
        }
        let member = state.couplings[coupling].position(layer)?;
        let blocks = state.selected[&coupling][member].indices().map(|block| block as u32);
        Some(Next::Blocks(blocks.collect()))
    }

    /// Publishes the new pattern of a layer for the layers that adopt it, which come later in the same step.
    pub(super) fn publish(&self, layer: LayerId, step: usize, pattern: &BlockPattern) {
        let mut state = self.lock();
        if state.targets.iter().any(|target| target.leader == Some(layer)) {
            state.published.insert(layer, (step, pattern.clone()));
        }
    }

    /// Publishes the pattern of a layer that was loaded, once, for layers that missed its latest update.
    pub(super) fn publish_loaded(&self, layer: LayerId, before: usize, pattern: &BlockPattern) {
        let mut state = self.lock();
        let leads = state.targets.iter().any(|target| target.leader == Some(layer));
        if leads && let Some(update) = self.config.update_due(0, before) {
            state.published.entry(layer).or_insert_with(|| (update, pattern.clone()));
        }
    }

    /// The latest pattern that a layer has published, if it was after step `before`.
    pub(super) fn published(&self, leader: LayerId, before: usize) -> Option<BlockPattern> {
        let state = self.lock();
        let (published_at, pattern) = state.published.get(&leader)?;
        (*published_at > before).then(|| pattern.clone())
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

impl State {
    /// Notes that a layer takes a step. After the first update, warns of layers that took none.
    fn tell_idle(&mut self, layer: LayerId, step: usize, config: &BlastConfig) {
        self.stepped.insert(layer);
        let (first, since) = *self.first.get_or_insert((layer, step));
        // By its third step, every other layer has had a turn.
        let is_late = step > config.first_update().max(since + 1);
        if self.idle_told || layer != first || !is_late {
            return;
        }
        self.idle_told = true;
        let idle = |target: &&LayerTarget| !self.stepped.contains(&target.layer);
        for target in self.targets.iter().filter(|target| target.sparsity.is_some()).filter(idle) {
            log::warn!(
                "{}: took no step so far, so it is not pruned: it is frozen or unused, or a group that was added to the \
                 optimizer takes its parameters",
                target.name
            );
        }
    }

    /// Blocks that a layer keeps at the coming update: by the global ranking, if there is one and it is complete, or by
    /// its own target.
    fn count(&self, config: &BlastConfig, layer: LayerId) -> Option<usize> {
        let Budget::Global { min_density, max_density } = config.budget else {
            return Some(self.submitted[layer.0].as_ref()?.uniform_count);
        };
        if self.targets[layer.0].fixed {
            return Some(self.submitted[layer.0].as_ref()?.uniform_count);
        }
        let ranked = |at: &usize| self.targets[*at].sparsity.is_some() && !self.targets[*at].fixed;
        let pruned: Vec<usize> = (0..self.targets.len()).filter(ranked).collect();
        let scores = |&at: &usize| {
            let submission = self.submitted[at].as_ref()?;
            let (scores, uniform_count) = (submission.scores.clone(), submission.uniform_count);
            Some(LayerScores { scores, blocks: self.targets[at].blocks(), uniform_count })
        };
        let scores: Option<Vec<LayerScores>> = pruned.iter().map(scores).collect();
        let kept = global(&scores?, min_density, max_density);
        pruned.iter().position(|&at| at == layer.0).map(|at| kept[at])
    }

    /// Selects the blocks of coupled layers, once all have submitted their rankings.
    fn select(
        &self,
        config: &BlastConfig,
        update: usize,
        coupled: &Coupled,
    ) -> Option<Vec<BlockMask>> {
        let mut prepared = Vec::new();
        for (layer, _) in &coupled.members {
            let submission = self.submitted[layer.0].as_ref()?;
            let mask = BlockMask::from(&submission.pattern);
            let scores = by_block(&submission.pattern, submission.scores.clone());
            prepared.push((mask, scores, submission, self.count(config, *layer)?));
        }
        let mut members = Vec::new();
        for ((layer, groups), prepared) in coupled.members.iter().zip(&prepared) {
            let (current, scores, submission, keep) = prepared;
            let gradients = submission.gradients.as_deref();
            members.push(Member {
                ranked: Ranked { current, scores, gradients, allowed: None },
                keep: *keep,
                exchange: (config.growth_at(update) * *keep as f64).round() as usize,
                seed: mix(config.seed, update, layer.0),
                groups,
            });
        }
        let kept: usize = members.iter().map(|member| member.keep).sum();
        let blocks: usize = members.iter().map(|member| member.groups.len()).sum();
        let share = |share: f64| ((share * coupled.groups as f64).round() as usize).max(1);
        Some(match config.structure {
            Structure::Groups => {
                whole_groups(&members, coupled.groups, share(kept as f64 / blocks as f64))
            }
            Structure::Blocks | Structure::Coupled => {
                let count = share(config.group_density_at(update));
                blocks_in_groups(&members, config.growth, coupled.groups, count)
            }
        })
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
            coupled: false,
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
