//! The training loop: batches, loss, optimizer, evaluation, checkpoints.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use burn::grad_clipping::GradientClippingConfig;
use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::{DType, Tensor};
use burn_blast::io::{self, IoError};
use burn_blast::prune::{Blast, BlastConfig, BlockOptimizer, MasterWeights, Monitor};

use super::head;
use super::objective::Objective;
use super::run_folder::{Log, RunFolder};
use super::{Progress, TrainConfig};
use crate::corpus::{Batch, Corpus};
use crate::generate::to_host;
use crate::host::Packed;
use crate::parallel::{at_once, in_threads};
use crate::{Error, Model};

/// Mean loss of the next token over batches, in nats.
///
/// # Errors
/// If the device does not return it, or it is infinite or not a number.
pub fn evaluate(model: &Model, batches: &[Batch]) -> Result<f64, Error> {
    let (mut sum, mut tokens) = (0.0, 0);
    for batch in batches {
        sum += head::next_token_sum(model, batch)?;
        tokens += batch.targets.dims()[0];
    }
    match sum.is_finite() {
        true => Ok(sum / tokens as f64),
        false => Err(Error::NotFinite("the held-out loss")),
    }
}

/// A model with the optimizer that trains it.
pub struct Trainee {
    /// The model, on a device with autodiff, in the form in which it is trained.
    pub model: Model,
    packed: Packed,
    optimizer: ModuleOptimizer,
    monitor: Option<Monitor>,
}

impl Trainee {
    /// Creates AdamW, with pruning if configured, for `model` as it was before the first step, and restores both from
    /// the last checkpoint of the run in `folder`, if there is one. Changes of the pattern are written there.
    ///
    /// # Errors
    /// If pruning cannot be set up or a checkpoint cannot be read.
    pub fn new(
        mut model: Model,
        config: &TrainConfig,
        blast: Option<&BlastConfig>,
        folder: Option<&RunFolder>,
    ) -> Result<Self, Error> {
        // Pruning that counts layers, or prunes dense ones, must find them as they are.
        let is_counted =
            blast.is_some_and(|blast| !blast.linear.is_empty() || blast.dense_last_linears > 0);
        let packed = match is_counted {
            true => Packed::default(),
            false => Packed::pack(&mut model, config)?,
        };
        let blast = blast.cloned().map(|mut blast| {
            // What was dense is not pruned.
            blast.dense.extend(packed.paths(&model));
            blast
        });
        let blast = blast.as_ref();
        let checkpoint = folder.and_then(RunFolder::checkpoint);
        if let Some((path, _)) = &checkpoint {
            model = io::load(model, path).map_err(damaged(path))?;
        }
        if config.only_mlps {
            model = model.only_mlps_trained();
        }
        let adamw = AdamWConfig::new().with_beta_2(0.95).with_epsilon(1e-8);
        let adamw = adamw.with_weight_decay(config.weight_decay);
        let (model, optimizer, monitor) = match model.dtype() {
            // f32 weights need no f32 copies; earlier runs also saved their state without copies.
            DType::F32 => optimize(model, adamw.build(), blast, folder)?,
            _ => optimize(model, MasterWeights::new(adamw.build()), blast, folder)?,
        };
        // On the first of the optimizer's groups: the others, the probes of the pruned layers, are no weights. Removed
        // blocks have no gradient, so only the gradient of kept blocks is clipped.
        let clipping = GradientClippingConfig::Norm(config.gradient_norm).init();
        let mut optimizer = optimizer.with_grad_clipping(clipping);
        if let Some((_, path)) = &checkpoint {
            optimizer = io::load_optimizer(optimizer, &model, path).map_err(damaged(path))?;
        }
        Ok(Self { model, packed, optimizer, monitor })
    }

    /// The trained model, without autodiff. Layers that were packed for training are new parameters.
    pub fn into_model(self) -> Model {
        let mut model = self.model.valid();
        self.packed.unpack(&mut model);
        model
    }

    /// One optimizer step on the batches from number `first` on. Returns their mean loss, still on the device.
    pub fn step(mut self, first: usize, session: &Session) -> (Self, Tensor<1>) {
        let config = session.config;
        let mut gradients = GradientsAccumulator::new();
        let mut total: Option<Tensor<1>> = None;
        let numbers: Vec<usize> = (first..first + config.accumulate).collect();
        for numbers in numbers.chunks(at_once(&self.model.device())) {
            // Summed in their order, however many are computed at once.
            for (loss, grads) in session.batches(&self.model, numbers) {
                total = Some(total.map_or(loss.clone(), |total| total + loss));
                gradients.accumulate(&self.model, grads);
            }
        }
        let lr = config.lr_at(first / config.accumulate);
        self.model = self.optimizer.step(lr, self.model, gradients.grads());
        (self, total.expect("at least one batch is summed up"))
    }

    fn progress(&self, log: &Log) -> Progress {
        Progress {
            step: log.steps,
            seconds: log.seconds,
            loss: log.losses.last().map(|(_, loss)| *loss),
            sparsity: self.monitor.as_ref().map(|monitor| monitor.snapshot().sparsity),
            held_out: None,
        }
    }

    /// Records what the pruning did in the latest step.
    fn record_pruning(&self, log: &mut Log, log_every: usize) {
        let Some(monitor) = &self.monitor else { return };
        let snapshot = monitor.snapshot();
        if log.steps.is_multiple_of(log_every) {
            log.sparsity.push((log.steps, snapshot.sparsity));
        }
        if snapshot.layers.iter().any(|layer| layer.step == log.steps) {
            log.churn.push((log.steps, snapshot.churn));
        }
    }

    /// Writes model and optimizer.
    fn save(&self, folder: &mut RunFolder) -> Result<(), Error> {
        folder.save(|model, optimizer| {
            io::save(&self.model, model)?;
            Ok(io::save_optimizer(&self.optimizer, optimizer)?)
        })
    }
}

/// The optimizer of a model, with pruning if asked for.
fn optimize<O: BlockOptimizer>(
    model: Model,
    inner: O,
    blast: Option<&BlastConfig>,
    folder: Option<&RunFolder>,
) -> Result<(Model, ModuleOptimizer, Option<Monitor>), Error> {
    let Some(config) = blast else { return Ok((model, ModuleOptimizer::from(inner), None)) };
    let mut blast = Blast::new(inner, config.clone());
    if let Some(folder) = folder {
        blast = blast.with_ledger(folder.ledger())?;
    }
    let monitor = blast.monitor();
    let (model, optimizer) = blast.attach(model)?;
    Ok((model, optimizer, Some(monitor)))
}

/// What a run works with.
pub struct Session<'a> {
    /// Settings.
    pub config: &'a TrainConfig,
    /// Texts.
    pub corpus: &'a Corpus,
    /// What is minimised.
    pub objective: Objective,
}

impl Session<'_> {
    /// Losses and gradients of batches, computed at once.
    pub(super) fn batches(
        &self,
        model: &Model,
        numbers: &[usize],
    ) -> Vec<(Tensor<1>, GradientsParams)> {
        let Self { config, corpus, objective } = self;
        in_threads(numbers, |number| {
            // With leaves of its own: Burn joins graphs that share one, and locks a graph while it walks it.
            let own = (numbers.len() > 1).then(|| model.clone().valid().train());
            let model = own.as_ref().unwrap_or(model);
            let batch = corpus.batch(config.sequences, config.seed, *number, &model.device());
            let mut gradients = GradientsAccumulator::new();
            let share = (config.accumulate as f64).recip();
            let loss = objective.gradients(model, &batch, share, &mut gradients);
            (loss, gradients.grads())
        })
    }

    /// Trains to the end, or until `report`, called after every step, says so. Returns whether the run is complete.
    ///
    /// # Errors
    /// If a file cannot be written, or the loss is no longer a number.
    pub fn train(
        &self,
        mut trainee: Trainee,
        folder: &mut RunFolder,
        report: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<(Trainee, bool), Error> {
        let config = self.config;
        let device = trainee.model.device().inner();
        let held_out = self.corpus.held_out(config.sequences, config.evaluated, &device);
        let mut pending = Vec::new();
        let mut clock = Instant::now();
        while folder.log.steps < config.steps {
            let loss;
            (trainee, loss) = trainee.step(folder.log.steps * config.accumulate, self);
            pending.push(loss);
            folder.log.steps += 1;
            trainee.record_pruning(&mut folder.log, config.log_every);
            let (step, last) = (folder.log.steps, folder.log.steps == config.steps);
            let evaluates = step.is_multiple_of(config.eval_every) || last;
            if step.is_multiple_of(config.log_every) || evaluates {
                drain(&mut pending, &mut clock, &mut folder.log)?;
            }
            let mut progress = trainee.progress(&folder.log);
            if evaluates {
                let valid = evaluate(&trainee.model.valid(), &held_out)?;
                folder.log.validation.push((step, valid));
                progress.held_out = Some(valid);
                clock = Instant::now();
            }
            let stops = report(&progress).is_break() && !last;
            if step.is_multiple_of(config.save_every) || last || stops {
                drain(&mut pending, &mut clock, &mut folder.log)?;
                trainee.save(folder)?;
                clock = Instant::now();
            }
            if stops {
                return Ok((trainee, false));
            }
        }
        Ok((trainee, true))
    }
}

/// Reads the losses of the last steps in one go, since reading each at once would stall a GPU. Adds their time by
/// `clock`, which starts again.
fn drain(pending: &mut Vec<Tensor<1>>, clock: &mut Instant, log: &mut Log) -> Result<(), Error> {
    if pending.is_empty() {
        return Ok(());
    }
    let losses = read(std::mem::take(pending))?;
    log.seconds += clock.elapsed().as_secs_f64();
    *clock = Instant::now();
    let mean = losses.iter().sum::<f64>() / losses.len() as f64;
    if !mean.is_finite() {
        return Err(Error::Diverged(log.steps));
    }
    log.losses.push((log.steps, mean));
    Ok(())
}

/// The values of losses, read from the device in one go.
pub(crate) fn read(losses: Vec<Tensor<1>>) -> Result<Vec<f64>, Error> {
    Ok(to_host(Tensor::cat(losses, 0))?.into_iter().map(f64::from).collect())
}

/// Names the file of a checkpoint that cannot be read.
fn damaged(path: &Path) -> impl Fn(IoError) -> Error {
    move |error| match error {
        IoError::File { .. } => error.into(),
        error => Error::unusable(
            path,
            format!(
                "{error}; without it the run cannot be resumed: remove its folder and start again"
            ),
        ),
    }
}
