//! What the optimizers of one run share: the plan of each layer, the global ranking, counts for reports.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::ThreadId;

use burn_blast_kernels::budget::{LayerScores, global};
use burn_blast_kernels::{BlockPattern, BlockSize, MatrixShape, PatternId};
use serde::{Deserialize, Serialize};

use super::ledger::Ledger;
use super::{BlastConfig, Budget, ReplicaError};

/// What is asked of one layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerPlan {
    pub(crate) name: String,
    pub(crate) shape: MatrixShape,
    pub(crate) block: BlockSize,
    /// Final sparsity; `None` keeps the layer as it is.
    pub(crate) target: Option<f64>,
    /// The target is the layer's own: it takes no part in a global ranking.
    pub(crate) fixed: bool,
    /// A plain linear weight, pruned in place.
    pub(crate) masked: bool,
    /// The layer whose pattern this one takes over.
    pub(crate) leader: Option<usize>,
}

impl LayerPlan {
    pub(crate) fn blocks(&self) -> usize {
        self.shape.block_rows(self.block) * self.shape.block_cols(self.block)
    }

    /// Whether the layer chooses blocks of its own.
    pub(crate) fn ranks(&self) -> bool {
        self.target.is_some() && self.leader.is_none()
    }
}

/// State of one layer in a [`Snapshot`], and one line of the run ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerSnapshot {
    /// Optimizer step of the update these counts are of; 0 before the first.
    pub step: usize,
    /// Path of the layer in the model.
    pub name: String,
    /// Whether the layer is exempt from pruning.
    pub dense: bool,
    /// Blocks of its grid.
    pub blocks: usize,
    /// Blocks kept.
    pub kept: usize,
    /// Blocks dropped by the latest update.
    pub pruned: usize,
    /// Blocks added by the latest update.
    pub regrown: usize,
    /// Blocks kept through the latest update.
    pub survivors: usize,
    /// Bytes of the kept values and their indices, at four bytes an element.
    pub bytes: usize,
    /// Bytes of the dense weight, at four bytes an element.
    pub dense_bytes: usize,
}

/// Counts over all layers after the latest update.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Optimizer steps taken.
    pub step: usize,
    /// Share of blocks removed from the layers that are pruned.
    pub sparsity: f64,
    /// Blocks dropped and added by the latest update, over the blocks kept.
    pub churn: f64,
    /// Bytes of all block-sparse weights and their indices.
    pub weight_bytes: usize,
    /// Bytes of the same weights dense.
    pub dense_bytes: usize,
    /// Every layer, in the order of the model.
    pub layers: Vec<LayerSnapshot>,
}

/// A view of a run for progress bars, metrics and plots; cheap to clone, readable from any thread.
#[derive(Debug, Clone)]
pub struct Monitor(pub(crate) Arc<Shared>);

impl Monitor {
    /// The counts now.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.0.lock();
        let pruned = || state.layers.iter().filter(|layer| !layer.dense);
        let sum = |count: fn(&LayerSnapshot) -> usize| pruned().map(count).sum::<usize>() as f64;
        let (kept, blocks) = (sum(|layer| layer.kept), sum(|layer| layer.blocks));
        let moved = sum(|layer| layer.pruned + layer.regrown);
        Snapshot {
            step: state.step,
            sparsity: if blocks > 0.0 { 1.0 - kept / blocks } else { 0.0 },
            churn: if kept > 0.0 { moved / kept } else { 0.0 },
            weight_bytes: state.layers.iter().map(|layer| layer.bytes).sum(),
            dense_bytes: state.layers.iter().map(|layer| layer.dense_bytes).sum(),
            layers: state.layers.clone(),
        }
    }
}

/// Shared by every clone of one [`Blast`](super::Blast).
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: BlastConfig,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) step: usize,
    pub(crate) plans: Vec<LayerPlan>,
    pub(crate) layers: Vec<LayerSnapshot>,
    pub(crate) ledger: Option<Ledger>,
    /// Layer of the latest step, and the thread that walked it.
    latest: Option<(ThreadId, usize)>,
    /// Layers whose counts follow the optimizer state.
    recounted: HashSet<usize>,
    /// Scores for the coming global ranking, by layer; `None` until that layer has brought its scores.
    contenders: Vec<Option<LayerScores>>,
    /// Update the contenders are for.
    contest: usize,
    /// Latest choice of each layer that others take over, with its step.
    choices: HashMap<usize, (usize, BlockPattern)>,
    /// Step of the latest update of each layer that has replicas, and the pattern the first of them took.
    agreed: HashMap<usize, (usize, PatternId)>,
}

impl Shared {
    pub(crate) fn new(config: BlastConfig) -> Self {
        Self { config, state: Mutex::default() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Brings a layer's scores to the global ranking of an update.
    pub(crate) fn contend(&self, update: usize, layer: usize, contender: LayerScores) {
        let mut state = self.lock();
        if state.contest != update {
            state.contest = update;
            state.contenders = vec![None; state.plans.len()];
        }
        state.contenders[layer] = Some(contender);
    }

    /// Blocks a layer keeps by the global ranking of an update, once every pruned layer has contended.
    pub(crate) fn settle(&self, update: usize, layer: usize) -> Option<usize> {
        let Budget::Global { min_density, max_density } = self.config.budget else {
            return None;
        };
        let state = self.lock();
        if state.contest != update {
            return None;
        }
        let ranked = |at: &usize| state.plans[*at].target.is_some() && !state.plans[*at].fixed;
        let pruned: Vec<usize> = (0..state.plans.len()).filter(ranked).collect();
        let contenders: Option<Vec<LayerScores>> =
            pruned.iter().map(|&at| state.contenders[at].clone()).collect();
        let kept = global(&contenders?, min_density, max_density);
        pruned.iter().position(|&at| at == layer).map(|at| kept[at])
    }

    /// Keeps a layer's choice for those that take it over, which come later in the same step.
    pub(crate) fn lead(&self, layer: usize, step: usize, choice: &BlockPattern) {
        let mut state = self.lock();
        if state.plans.iter().any(|plan| plan.leader == Some(layer)) {
            state.choices.insert(layer, (step, choice.clone()));
        }
    }

    /// What `leader` chose in this step, if it has.
    pub(crate) fn follow(&self, leader: usize, step: usize) -> Option<BlockPattern> {
        let state = self.lock();
        let (chosen_at, choice) = state.choices.get(&leader)?;
        (*chosen_at == step).then(|| choice.clone())
    }

    /// Counts a step of one layer and returns its number. A layer that took no part in some steps catches up.
    ///
    /// Layers are walked in the order of their numbers, so a step begins where that order starts again. Replicas walk
    /// on threads of their own: between two of them only the steps of the layer tell.
    pub(crate) fn count_step(&self, layer: usize, layer_steps: usize) -> usize {
        let mut state = self.lock();
        let first = state.step == 0;
        let thread = std::thread::current().id();
        let again = state.latest.is_some_and(|(walker, at)| walker == thread && layer <= at);
        state.latest = Some((thread, layer));
        state.step = (state.step + usize::from(again)).max(layer_steps + 1);
        let step = state.step;
        if first && let Some(ledger) = &mut state.ledger {
            ledger.resume_at(step);
        }
        step
    }

    pub(crate) fn report(&self, layer: usize, line: LayerSnapshot) {
        let mut state = self.lock();
        // Replicas of a layer report the same update.
        let news = state.layers[layer].step < line.step;
        if news && let Some(ledger) = &state.ledger {
            ledger.write(&line);
        }
        state.layers[layer] = line;
    }

    /// Notes the pattern a replica of a layer took at an update.
    ///
    /// # Errors
    /// If another replica took another one. Gradients are reduced in every step, so none is a whole step ahead.
    pub(crate) fn agree(
        &self,
        layer: usize,
        step: usize,
        pattern: PatternId,
    ) -> Result<(), ReplicaError> {
        let mut state = self.lock();
        let first = *state.agreed.get(&layer).unwrap_or(&(0, pattern));
        match first.0 == step && first.1 != pattern {
            true => Err(ReplicaError { layer: state.plans[layer].name.clone() }),
            false => {
                if first.0 < step {
                    state.agreed.insert(layer, (step, pattern));
                }
                Ok(())
            }
        }
    }

    /// Corrects the counts of a plain layer, once, whose kept blocks came with the optimizer state.
    pub(crate) fn recount(&self, layer: usize, line: impl FnOnce() -> LayerSnapshot) {
        let mut state = self.lock();
        if state.recounted.insert(layer) && state.layers[layer].step == 0 {
            state.layers[layer] = line();
        }
    }
}

#[cfg(test)]
mod tests {
    use burn_blast_kernels::BlockPattern;

    use super::*;

    #[test]
    fn replicas_that_took_another_pattern_at_the_same_step_are_named() {
        let (shape, block) = (MatrixShape::new(32, 32).unwrap(), BlockSize::new(8).unwrap());
        let shared = Shared::new(BlastConfig::new(10));
        let plan = |name: &str| LayerPlan {
            name: name.to_string(),
            shape,
            block,
            target: Some(0.5),
            fixed: false,
            masked: false,
            leader: None,
        };
        shared.lock().plans = vec![plan("a"), plan("b")];
        let id = |seed| BlockPattern::random(shape, block, 0.5, seed).id();
        for (layer, step, seed) in
            [(0, 5, 1), (1, 5, 2), (0, 5, 1), (1, 10, 3), (0, 10, 4), (1, 10, 3)]
        {
            shared.agree(layer, step, id(seed)).unwrap();
        }
        let error = shared.agree(0, 10, id(5)).unwrap_err().to_string();
        assert!(error.contains("different blocks in layer \"a\""), "{error}");
        assert!(error.contains("reduce gradients before the optimizer steps"), "{error}");
    }

    /// Steps that `layers` layers count, if in each walk only those of `walks` take part.
    fn counted(layers: usize, walks: &[&[usize]]) -> Vec<Vec<usize>> {
        let shared = Shared::new(BlastConfig::new(10));
        let mut steps = vec![0; layers];
        let walk = |layers: &&[usize]| {
            let count = |&layer: &usize| {
                steps[layer] = shared.count_step(layer, steps[layer]);
                steps[layer]
            };
            layers.iter().map(count).collect()
        };
        walks.iter().map(walk).collect()
    }

    #[test]
    fn a_layer_that_missed_steps_counts_the_others_steps() {
        assert_eq!(counted(1, &[&[0], &[0]]), [[1], [2]]);
        let late_first: [&[usize]; 4] = [&[0, 1], &[1], &[0, 1], &[0, 1]];
        assert_eq!(counted(2, &late_first), [vec![1, 1], vec![2], vec![3, 3], vec![4, 4]]);
        let late_last: [&[usize]; 3] = [&[0, 1], &[0], &[0, 1]];
        assert_eq!(counted(2, &late_last), [vec![1, 1], vec![2], vec![3, 3]]);
    }

    #[test]
    fn replicas_on_other_threads_count_the_same_steps() {
        let shared = Shared::new(BlastConfig::new(10));
        for steps in 0..3 {
            for _replica in 0..2 {
                std::thread::scope(|scope| {
                    let walk = || [0, 1].map(|layer| shared.count_step(layer, steps));
                    assert_eq!(scope.spawn(walk).join().unwrap(), [steps + 1; 2]);
                });
            }
        }
    }
}
