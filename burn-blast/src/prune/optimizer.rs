//! The optimizer that prunes.

use std::path::Path;
use std::sync::Arc;

use burn::grad_clipping::{GradientClipping, GradientClippingConfig};
use burn::optim::{LearningRate, Optimizer};
use burn::tensor::{Device, Tensor};
use burn_blast_kernels::{BlockMask, BlockPattern};

use super::ledger::Ledger;
use super::run::PruningRun;
use super::score::{self, Measured};
use super::select::Ranked;
use super::targets::LayerTarget;
use super::update::{Due, counts, next_mask, rank_ahead, reads_gradients, sources};
use super::{BlastConfig, BlastError, BlastState, BlockOptimizer, Monitor, Score};
use crate::functions::{by_block, gather};
use crate::ops::packed;
use crate::window::{self, LayerId, Stage, View};

/// Prune-and-grow around an optimizer.
///
/// It acts on each parameter inside the optimizer step, so it works in a custom loop, in `SupervisedTraining`, with
/// gradient accumulation and on several devices. Parameters that are not block-sparse weights go to the wrapped
/// optimizer as they are. If gradients are accumulated, or a layer is used several times in one pass, growth ranks by
/// the sum of the norms of the parts.
///
/// At an update step the wrapped optimizer steps first. Then the layer takes its new pattern: kept blocks keep their
/// values and moments, dropped blocks are gone, new blocks start at zero.
///
/// One `Blast` serves one model.
///
/// See [`prune`](super) for an example, and [`attach`](Self::attach) for how it meets a model.
#[derive(Clone)]
pub struct Blast<O> {
    pub(super) inner: O,
    pub(super) run: Arc<PruningRun>,
    /// For a copy that serves one plain linear weight: its layer.
    pub(super) masked: Option<LayerId>,
    pub(super) clipping: Option<GradientClipping>,
}

impl<O> std::fmt::Debug for Blast<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Burn's optimizers are not `Debug`.
        f.debug_struct("Blast").field("config", &self.run.config).finish_non_exhaustive()
    }
}

impl<O: BlockOptimizer> Blast<O> {
    /// Wraps an optimizer, for example `AdamWConfig::new().build()`.
    pub fn new(inner: O, config: BlastConfig) -> Self {
        Self { inner, run: Arc::new(PruningRun::new(config)), masked: None, clipping: None }
    }

    /// Writes one JSON line per layer and update to a file: a [`LayerSnapshot`](super::LayerSnapshot) each.
    /// A resumed run drops the lines of the steps that it repeats, then appends; a new run empties the file.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn with_ledger(self, path: impl AsRef<Path>) -> Result<Self, BlastError> {
        self.run.set_ledger(Ledger::open(path.as_ref())?);
        Ok(self)
    }

    /// Clips the gradient of every parameter.
    ///
    /// Set it here rather than on the optimizer that [`attach`](Self::attach) returns, which would miss plain linear
    /// layers pruned in place. The gradient norms that growth ranks by are never clipped.
    pub fn with_grad_clipping(mut self, clipping: &GradientClippingConfig) -> Self {
        self.clipping = Some(clipping.init());
        self
    }

    /// A view of the run.
    pub fn monitor(&self) -> Monitor {
        Monitor(self.run.clone())
    }

    /// One step of a packed weight, `[nnz, b, b]`.
    fn step_packed<const D: usize>(
        &self,
        lr: LearningRate,
        values: Tensor<D>,
        grad: Tensor<D>,
        state: Option<BlastState<O::State<D>>>,
        view: View,
    ) -> (Tensor<D>, BlastState<O::State<D>>) {
        let View { pattern, replicated, .. } = view;
        let layer = view.layer.expect(
            "this block-sparse weight is unknown to the optimizer: pass the model through \
             Blast::attach before training, after any layer is added",
        );
        let gradients = window::request(|request| request.grad_norms.take()).flatten();
        let config = &self.run.config;
        let target = self.run.target(layer);
        let mut state = state.unwrap_or_else(|| BlastState::new(pattern.nnz()));
        let before = self.run.tick(layer, &mut state);
        self.run.publish_loaded(layer, before, &pattern);
        let blocks = |tensor: &Tensor<D>| tensor.clone().reshape(packed(&pattern));
        // What a state of other settings gathered counts no more.
        let so_far = state.running.take();
        if score::is_running(config) && target.sparsity.is_some() {
            state.running = score::add_step(config, so_far, blocks(&values), blocks(&grad));
        }
        let lr = self.run.config.scaled_lr(lr, &pattern);
        let (mut values, inner) = self.inner.step(lr, values, grad.clone(), state.inner.take());
        state.inner = inner;

        let Some(sparsity) = target.sparsity else { return (values, state) };
        let second_moment = self.second_moment(&state);
        let scores = |running: Option<&Tensor<1>>| {
            let (values, grad) = (blocks(&values), blocks(&grad));
            let second_moment = second_moment.map(|squares| blocks(&squares));
            let measured = Measured { values, grad, second_moment, running };
            score::by_slot(config.score, measured, &pattern)
        };
        if let Some(due) = self.due(&target, before, state.step) {
            if reads_gradients(config, &target, due.update) && gradients.is_none() {
                log::warn!(
                    "{}: no gradient norms at this update, so no block is added",
                    target.name
                );
            }
            let gradients = gradients.as_deref();
            let next =
                self.next_pattern(&target, sparsity, &mut state, &pattern, scores, gradients, due);
            if replicated && let Err(error) = self.run.check_replica(layer, state.step, next.id()) {
                // A step cannot return an error.
                panic!("step {}: {error}", state.step);
            }
            if next != pattern {
                let sources = sources(&pattern, &next);
                move_state::<O, D>(&mut state, &values, |tensor| gather(tensor, &sources));
                state.move_blocks(&sources, config.grace > 0);
                values = gather(values, &sources);
                window::request(|request| request.pattern = Some(next));
            }
        } else {
            let rankings = |running: Option<&Tensor<1>>| (scores(running), gradients);
            rank_ahead(&self.run, &target, sparsity, &mut state, &pattern, rankings);
        }
        let probe = reads_gradients(config, &target, state.step + 1);
        window::request(|request| request.probe = Some(probe));
        (values, state)
    }

    /// The running mean of squared gradients, if the score reads it.
    pub(super) fn second_moment<const D: usize>(
        &self,
        state: &BlastState<O::State<D>>,
    ) -> Option<Tensor<D>> {
        let reads = self.run.config.score == Score::Fisher;
        reads.then(|| O::second_moment(state.inner.as_ref()?).cloned()).flatten()
    }

    /// The update that a layer takes part in at step `now`, if there is one: of this step, or the latest one that it missed
    /// since its step `before`, or the one that its leader has made up for.
    pub(super) fn due(&self, target: &LayerTarget, before: usize, now: usize) -> Option<Due> {
        let follows = target.leader.and_then(|leader| self.run.published(leader, before)).is_some();
        let update = self.run.config.update_due(before, now).or(follows.then_some(now))?;
        Some(Due { before, update })
    }

    /// The pattern after an update, which is reported: selected by scores by slot and gradient norms by block number, or
    /// the one that the leader of the layer has just taken.
    #[allow(clippy::too_many_arguments, reason = "two callers, which differ in how they score")]
    pub(super) fn next_pattern<S>(
        &self,
        target: &LayerTarget,
        sparsity: f64,
        state: &mut BlastState<S>,
        pattern: &BlockPattern,
        scores: impl FnOnce(Option<&Tensor<1>>) -> Vec<f32>,
        gradients: Option<&[f32]>,
        due: Due,
    ) -> BlockPattern {
        let current = BlockMask::from(pattern);
        let next = match target.leader {
            Some(leader) => self.run.published(leader, due.before).unwrap_or_else(|| {
                let name = &target.name;
                log::warn!("{name}: the layer that it is tied to took no part in this update");
                pattern.clone()
            }),
            None => {
                let mut scores = scores(state.running.as_ref());
                state.protect(&mut scores, due.update, self.run.config.grace);
                let scores = by_block(pattern, scores);
                let ranked =
                    Ranked { current: &current, scores: &scores, gradients, allowed: None };
                let mask = next_mask(&self.run.config, target, sparsity, state, &ranked, due);
                BlockPattern::from_mask(&mask)
            }
        };
        self.run.publish(target.layer, state.step, &next);
        self.run.report(target.layer, counts(target, state.step, &current, &next));
        next
    }
}

/// Applies `remap` to the moments of the wrapped optimizer. `like` is the parameter before its own move.
pub(super) fn move_state<O: BlockOptimizer, const D: usize>(
    state: &mut BlastState<O::State<D>>,
    like: &Tensor<D>,
    remap: impl Fn(Tensor<D>) -> Tensor<D>,
) {
    state.inner = state.inner.take().map(|inner| O::remap(inner, like, remap));
}

impl<O: BlockOptimizer> Optimizer for Blast<O> {
    type State<const D: usize> = BlastState<O::State<D>>;

    /// # Panics
    /// If the parameter belongs to a block-sparse weight that was not attached. Under distributed training, if replicas
    /// of a weight keep different blocks.
    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        match (window::view(), self.masked) {
            (Some(View { stage: Stage::Probe, .. }), _) => {
                let norms = grad.to_data().iter::<f32>().collect();
                window::request(|request| request.grad_norms = Some(norms));
                (tensor, None)
            }
            (Some(view), _) => {
                let (tensor, state) = self.step_packed(lr, tensor, grad, state, view);
                (tensor, Some(state))
            }
            (None, Some(layer)) => {
                let (tensor, state) = self.step_masked(lr, tensor, grad, state, layer);
                (tensor, Some(state))
            }
            (None, None) => {
                let mut state = state.unwrap_or_else(|| BlastState::new(0));
                let (tensor, inner) = self.inner.step(lr, tensor, grad, state.inner.take());
                state.inner = inner;
                (tensor, Some(state))
            }
        }
    }

    fn to_device<const D: usize>(mut state: Self::State<D>, device: &Device) -> Self::State<D> {
        state.inner = state.inner.map(|inner| O::to_device(inner, device));
        state.running = state.running.map(|running| running.to_device(device));
        state
    }
}
