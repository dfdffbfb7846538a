//! The training loop, the same for both runs.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use burn::grad_clipping::GradientClippingConfig;
use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use burn_blast::io;
use burn_blast::prune::Monitor;
use burn_blast::prune::{Blast, BlastConfig};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::Config;
use crate::checkpoint::{Phase, RunLog, State, Store};
use crate::corpus::Corpus;
use crate::data::{self, Batch};
use crate::memory;
use crate::model::Llama;
use crate::schedule::learning_rate;

/// Steps between two entries of the loss curve.
const LOG_EVERY: usize = 5;

/// Evaluations during a run, the last one at its end.
const EVALUATIONS: usize = 5;

/// Largest norm of a parameter's gradient.
const GRADIENT_NORM: f32 = 1.0;

/// What every part of the experiment works with.
#[derive(Debug)]
pub struct Session<'a> {
    /// The settings.
    pub config: &'a Config,
    /// The text.
    pub corpus: &'a Corpus,
    /// The output folder.
    pub store: &'a Store,
    /// Where to train, with autodiff.
    pub device: Device,
    /// Validation batches, the same for every evaluation.
    pub validation: Vec<Batch>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Complete,
    /// Ctrl-C came; a checkpoint is written.
    Interrupted,
}

/// A model with the optimizer that trains it.
pub struct Trainee {
    /// The model, on the training device.
    pub model: Llama,
    optimizer: ModuleOptimizer,
    /// Pruning seen from outside; only the sparse run has it.
    monitor: Option<Monitor>,
}

impl<'a> Session<'a> {
    /// Prepares for training on `device` without autodiff.
    pub fn new(config: &'a Config, corpus: &'a Corpus, store: &'a Store, device: &Device) -> Self {
        let validation = data::validation_batches(&corpus.valid, config, device);
        Self { config, corpus, store, device: device.clone().autodiff(), validation }
    }

    /// Mean validation loss in nats per byte, rounded to what every JSON reader gives back exactly.
    ///
    /// # Errors
    /// If the device fails to return it.
    pub fn evaluate(&self, model: &Llama) -> Result<f64> {
        let model = model.valid();
        let losses = self.validation.iter().map(|batch| model.loss(batch)).collect();
        let losses = read(losses)?;
        let mean = losses.iter().sum::<f64>() / losses.len() as f64;
        Ok((mean * 1e9).round() / 1e9)
    }

    /// The model of a run before its first step: dense, or the same weights packed into blocks.
    ///
    /// # Errors
    /// If the weights cannot be cut into blocks.
    pub fn fresh_model(&self, phase: Phase, seed: u64) -> Result<Llama> {
        let model = Llama::new(self.config, seed, &self.device);
        Ok(match phase {
            Phase::Sparse => model.into_sparse(self.config.block, self.config.dense_last)?,
            _ => model,
        })
    }

    /// The model of a run where its log says it stands, with optimizer and, in the sparse run, pruning, which is
    /// written down in `ledger`.
    ///
    /// # Errors
    /// If the checkpoint cannot be read or does not fit.
    pub fn trainee(&self, phase: Phase, log: &RunLog, ledger: Option<&Path>) -> Result<Trainee> {
        let mut model = self.fresh_model(phase, self.config.seed)?;
        if let Some(checkpoint) = &log.checkpoint {
            model = io::load(model, self.store.model(checkpoint))?;
        }
        let (model, optimizer, monitor) = match phase {
            Phase::Sparse => {
                let mut blast = Blast::new(adamw().build(), self.blast_config());
                if let Some(ledger) = ledger {
                    blast = blast.with_ledger(ledger)?;
                }
                let monitor = blast.monitor();
                let (model, optimizer) = blast.attach(model)?;
                (model, optimizer, Some(monitor))
            }
            _ => (model, ModuleOptimizer::from(adamw().build()), None),
        };
        // On the first of the optimizer's groups: the others, the probes of the pruned layers, are no weights.
        let mut optimizer =
            optimizer.with_grad_clipping(GradientClippingConfig::Norm(GRADIENT_NORM).init());
        if let Some(checkpoint) = &log.checkpoint {
            optimizer = io::load_optimizer(optimizer, &model, self.store.optimizer(checkpoint))?;
        }
        Ok(Trainee { model, optimizer, monitor })
    }

    /// Pruning as the settings ask for it.
    fn blast_config(&self) -> BlastConfig {
        BlastConfig::new(self.config.steps)
            .with_sparsity(self.config.sparsity)
            .with_interval(self.config.interval)
            .with_end_fraction(self.config.end_fraction)
            .with_growth(self.config.growth.into())
            .with_seed(self.config.seed)
    }

    /// Trains one of the two runs to its end, or until `stop` says so, from wherever `state` says it stands.
    ///
    /// # Errors
    /// If a file cannot be read or written, or the loss is no longer a number.
    pub fn train(
        &self,
        state: &mut State,
        phase: Phase,
        stop: &dyn Fn() -> bool,
    ) -> Result<Outcome> {
        memory::reset_peak();
        let mut trainee =
            self.trainee(phase, state.log(phase), Some(&self.store.path("ledger.jsonl")))?;
        let mut run = Run::new(self, phase, state.log(phase).steps);
        while state.log(phase).steps < self.config.steps {
            let log = state.log_mut(phase);
            if stop() {
                run.drain(log)?;
                run.save(&trainee, state)?;
                run.bar.abandon();
                return Ok(Outcome::Interrupted);
            }
            let batch =
                data::training_batch(&self.corpus.train, self.config, log.steps, &self.device);
            let loss;
            (trainee, loss) = trainee.step(&batch, learning_rate(log.steps, self.config));
            run.after_step(&trainee, loss, state)?;
        }
        run.save(&trainee, state)?;
        run.bar.finish_and_clear();
        Ok(Outcome::Complete)
    }
}

impl Trainee {
    /// One optimizer step on `batch`; returns the loss before it, still on the device.
    pub fn step(mut self, batch: &Batch, lr: f64) -> (Self, Tensor<1>) {
        let loss = self.model.loss(batch);
        let value = loss.clone().inner();
        let gradients = GradientsParams::from_grads(loss.backward(), &self.model);
        self.model = self.optimizer.step(lr, self.model, gradients);
        (self, value)
    }
}

/// The bookkeeping of a run under way.
struct Run<'s, 'a> {
    session: &'s Session<'a>,
    phase: Phase,
    /// Losses still on the device: reading each one at once would stall a GPU.
    pending: Vec<Tensor<1>>,
    bar: ProgressBar,
    /// Since the log was last brought up to date.
    clock: Instant,
    /// Bytes trained on in a second, lately.
    rate: f64,
}

impl<'s, 'a> Run<'s, 'a> {
    fn new(session: &'s Session<'a>, phase: Phase, done: usize) -> Self {
        let bar = progress_bar(phase, session.config.steps, done);
        Self { session, phase, pending: Vec::new(), bar, clock: Instant::now(), rate: 0.0 }
    }

    /// Everything that is due after a step.
    fn after_step(&mut self, trainee: &Trainee, loss: Tensor<1>, state: &mut State) -> Result<()> {
        let config = self.session.config;
        let log = state.log_mut(self.phase);
        self.pending.push(loss);
        log.steps += 1;
        let done = log.steps;
        let last = done == config.steps;
        self.record_pruning(trainee, log);
        if done.is_multiple_of(LOG_EVERY) {
            self.drain(log)?;
        }
        if done.is_multiple_of((config.steps / EVALUATIONS).max(1)) || last {
            self.evaluate(trainee, log)?;
        }
        if done.is_multiple_of(config.save_every) && !last {
            self.drain(log)?;
            self.save(trainee, state)?;
        }
        self.bar.inc(1);
        Ok(())
    }

    /// Reads the losses of the last steps and brings time, memory and the progress bar up to date.
    fn drain(&mut self, log: &mut RunLog) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let steps = self.pending.len();
        let losses = read(std::mem::take(&mut self.pending))?;
        let loss = losses.iter().sum::<f64>() / steps as f64;
        ensure!(
            loss.is_finite(),
            "the {} run's loss is no longer a number at step {}: try again with a lower --lr",
            self.phase.name(),
            log.steps
        );
        let seconds = self.clock.elapsed().as_secs_f64();
        self.clock = Instant::now();
        self.rate = (steps * self.session.config.tokens_per_step()) as f64 / seconds;
        log.seconds += seconds;
        log.losses.push((log.steps, loss));
        log.peak_bytes = log.peak_bytes.max(memory::peak_bytes());
        let sparsity = log.sparsity.last().map_or(0.0, |(_, sparsity)| *sparsity);
        let message =
            format!("loss {loss:.3}, {:.1} % sparse, {:.0} bytes/s", 100.0 * sparsity, self.rate);
        self.bar.set_message(message);
        Ok(())
    }

    /// Copies what the pruning did in this step.
    fn record_pruning(&self, trainee: &Trainee, log: &mut RunLog) {
        let Some(monitor) = &trainee.monitor else { return };
        let snapshot = monitor.snapshot();
        if log.steps.is_multiple_of(LOG_EVERY) {
            log.sparsity.push((log.steps, snapshot.sparsity));
        }
        if snapshot.layers.iter().any(|layer| layer.step == log.steps) {
            log.churn.push((log.steps, snapshot.churn));
        }
    }

    /// Evaluates, outside the training time.
    fn evaluate(&mut self, trainee: &Trainee, log: &mut RunLog) -> Result<()> {
        self.drain(log)?;
        let validation = self.session.evaluate(&trainee.model)?;
        self.clock = Instant::now();
        log.validation.push((log.steps, validation));
        let training = log.losses.last().map_or(f64::NAN, |(_, loss)| *loss);
        let line = format!(
            "{:>6} step {:>5}/{}: training loss {training:.4}, validation loss {validation:.4} nats/byte, \
             {:.0} bytes/s",
            self.phase.name(),
            log.steps,
            self.session.config.steps,
            self.rate
        );
        self.bar.suspend(|| println!("{line}"));
        Ok(())
    }

    /// Writes a checkpoint, outside the training time.
    fn save(&mut self, trainee: &Trainee, state: &mut State) -> Result<()> {
        let Trainee { model, optimizer, .. } = trainee;
        let saved =
            self.session.store.checkpoint(state, self.phase, |model_path, optimizer_path| {
                io::save(model, model_path)?;
                io::save_optimizer(optimizer, optimizer_path)?;
                Ok(())
            });
        self.clock = Instant::now();
        saved.context("the checkpoint could not be saved; the one before still counts")
    }
}

/// AdamW as usual for language models.
fn adamw() -> AdamWConfig {
    AdamWConfig::new().with_beta_2(0.95).with_epsilon(1e-8).with_weight_decay(0.01)
}

/// Reads scalars from the device in one go.
fn read(scalars: Vec<Tensor<1>>) -> Result<Vec<f64>> {
    let values = Tensor::cat(scalars, 0).into_data().convert::<f32>().try_to_vec::<f32>();
    let values =
        values.map_err(|error| anyhow::anyhow!("the device did not return the loss: {error:?}"))?;
    Ok(values.into_iter().map(f64::from).collect())
}

fn progress_bar(phase: Phase, steps: usize, done: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64).with_position(done as u64).with_prefix(phase.name());
    let template = "{prefix:>6} {bar:30} {pos}/{len}, {msg}, {eta} left";
    bar.set_style(ProgressStyle::with_template(template).expect("the template is valid"));
    bar.reset_eta();
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
