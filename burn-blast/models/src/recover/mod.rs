//! A dense model made sparse and brought back, step by step.
//!
//! | step | what it does |
//! |---|---|
//! | [`Step::Cut`] | removes groups of hidden features by the loss that depends on them ([`OneShot`]) |
//! | [`Step::Reconstruct`] | trains each MLP to give what the dense one gives |
//! | [`Step::Distil`] | trains all MLPs together on the scores of the dense model |
//! | [`Step::Measure`] | compares the results of all steps with the dense model, and writes the report |
//!
//! Each step leaves a model folder in a folder beside the output, so that a run that was interrupted is resumed where it
//! was. The order and its defaults are what measured best on SmolLM2-135M, `docs/src/recover.md`.

mod plan;
mod report;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::config::Config;
use burn::tensor::Device;
use burn_blast::BlockSize;
use burn_blast::io::IoError;
use burn_blast_checkpoint::check_output;
use serde_json::Value;

pub use report::{Report, Row};

use crate::corpus::{Corpus, Sequences};
use crate::fine_tune::{Job, Log, Objective, Progress, TrainConfig};
use crate::one_shot::{Method, OneShot, sample};
use crate::{Blocks, Error, Form, ModelFolder, Precision, Timing};
use plan::Workshop;

/// Tokens of a sequence from which importance is taken.
const SAMPLED_CONTEXT: usize = 512;

/// Share of the hours that is kept for the last step, and the most seconds of it.
const MEASURING: (f64, f64) = (0.1, 120.0);

/// Settings of [`Recovery::run`].
#[derive(Config, Debug, PartialEq)]
pub struct Recover {
    /// What is removed.
    pub blocks: Blocks,
    /// Hours that the whole run may take. The step of distillation takes what the others leave.
    #[config(default = 1.0)]
    pub hours: f64,
    /// Sequences of 512 tokens from which importance is taken.
    #[config(default = 10)]
    pub sequences: usize,
    /// Tokens of a sequence in training.
    #[config(default = 256)]
    pub context: usize,
    /// Steps of reconstruction, of one sequence each.
    #[config(default = 160)]
    pub reconstruct_steps: usize,
    /// Highest learning rate of reconstruction.
    #[config(default = 1e-3)]
    pub reconstruct_lr: f64,
    /// Steps of distillation, of four sequences each, instead of as many as the hours allow.
    #[config(default = "None")]
    pub steps: Option<usize>,
    /// Highest learning rate of distillation.
    #[config(default = 5e-4)]
    pub lr: f64,
    /// Seed of the batches.
    #[config(default = 0)]
    pub seed: u64,
}

/// A step of a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Removal.
    Cut,
    /// Each MLP by itself.
    Reconstruct,
    /// The whole model.
    Distil,
    /// Comparison.
    Measure,
}

impl Step {
    /// In their order.
    pub const ALL: [Self; 4] = [Self::Cut, Self::Reconstruct, Self::Distil, Self::Measure];

    /// As in files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Reconstruct => "reconstruct",
            Self::Distil => "distil",
            Self::Measure => "measure",
        }
    }
}

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tick {
    /// The step.
    pub step: Step,
    /// Parts of it that are done.
    pub done: usize,
    /// All of them.
    pub all: usize,
    /// State of the training, in a step that trains.
    pub training: Option<Progress>,
}

/// What a step that trains recorded in its result, if there is one.
fn finished(out: &Path) -> Option<Log> {
    let text = fs::read_to_string(out.join("recover.json")).ok()?;
    serde_json::from_str(&text).ok()
}

/// Tokens that a step trains on.
fn tokens(config: &TrainConfig) -> usize {
    let Sequences { context, batch } = config.sequences;
    config.steps * config.accumulate * context * batch
}

/// The job of a step that trains.
fn job<'a>(config: &'a TrainConfig, step: Step, out: &'a Path) -> Job<'a> {
    Job {
        config,
        blast: None,
        settings: Value::from(step.name()),
        free: &[],
        out,
        replace: true,
        form: Form::Packed,
        precision: Precision::File,
        resume: out.with_extension("run").join("log.json").exists(),
    }
}

/// A run from a dense model to a sparse one.
#[derive(Clone, Debug)]
pub struct Recovery<'a> {
    /// Settings.
    pub config: &'a Recover,
    /// The dense model.
    pub dense: &'a ModelFolder,
    /// Texts with their names. All are trained on, and each is held out in part.
    pub texts: &'a [(String, Corpus)],
    /// Where to compute.
    pub device: Device,
    /// Data type of weights and features.
    pub precision: Precision,
    /// Data type of the files of the result. `File` means the data type that was computed in.
    pub written: Precision,
    /// How the result is timed.
    pub timing: Timing,
    /// Folder to write.
    pub out: &'a Path,
    /// Whether a folder that exists is replaced.
    pub replace: bool,
    /// Resume the interrupted run of this output.
    pub resume: bool,
}

impl Recovery<'_> {
    /// Runs all steps that are not done, and returns the report, or nothing if `tick`, called again and again, breaks.
    ///
    /// # Errors
    /// If a setting is not valid, a file cannot be read or written, or the loss is no longer a number.
    pub fn run(
        &self,
        tick: &mut dyn FnMut(&Tick) -> ControlFlow<()>,
    ) -> Result<Option<Report>, Error> {
        self.check()?;
        let corpora: Vec<Corpus> = self.texts.iter().map(|(_, corpus)| corpus.clone()).collect();
        let corpus = Corpus::joined(&corpora);
        let mut workshop = Workshop::open(self, &corpus)?;
        if !workshop.is_done(Step::Cut) {
            let clock = Instant::now();
            self.cut(&workshop, &corpus, tick)?;
            workshop.finish(Step::Cut, clock.elapsed().as_secs_f64(), 0)?;
        }
        for step in [Step::Reconstruct, Step::Distil] {
            if !workshop.is_done(step) && !self.train(&mut workshop, step, &corpus, tick)? {
                return Ok(None);
            }
        }
        self.finish(workshop, tick)
    }

    fn check(&self) -> Result<(), Error> {
        self.config.blocks.check()?;
        BlockSize::new(self.config.blocks.block)?;
        Error::at_least_one(&[
            ("sequences", self.config.sequences),
            ("reconstruct-steps", self.config.reconstruct_steps),
            ("steps", self.config.steps.unwrap_or(1)),
        ])?;
        let rate = self.config.reconstruct_lr;
        Error::in_range("reconstruct-lr", rate, rate > 0.0, "above 0")?;
        for step in [Step::Reconstruct, Step::Distil] {
            self.train_config(step).check()?;
        }
        self.timing.check(self.dense.config().context())?;
        let hours = self.config.hours;
        Error::in_range("hours", hours, hours > 0.0, "above 0")?;
        Error::fits(self.config.context, self.dense.config().context())?;
        if self.texts.is_empty() {
            return Err(Error::TooShort("recovery needs a text".to_owned()));
        }
        let input = self.dense.path();
        check_output(input, true, self.out, self.replace).map_err(IoError::from)?;
        Ok(())
    }

    fn cut(
        &self,
        workshop: &Workshop,
        corpus: &Corpus,
        tick: &mut dyn FnMut(&Tick) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let mut model = self.dense.load(&self.device, self.precision)?;
        let longest = corpus.train.len().saturating_sub(1).min(self.dense.config().context());
        let context = SAMPLED_CONTEXT.min(longest);
        let one_shot = OneShot::new(self.config.blocks.clone()).with_method(Method::Taylor);
        let (sequences, batch) = (self.config.sequences, one_shot.batch());
        let sample = sample(corpus, sequences, context, batch, &self.device)?;
        one_shot.run(&mut model, &sample, |done, all| {
            // What this step has done is not kept: a program that is to stop may end here.
            let _ = tick(&Tick { step: Step::Cut, done, all, training: None });
        })?;
        self.dense.save_with(&model, workshop.result(Step::Cut), Form::Packed, true, |_| Ok(()))
    }

    /// Trains the result of the step before; returns whether it is complete.
    fn train(
        &self,
        workshop: &mut Workshop,
        step: Step,
        corpus: &Corpus,
        tick: &mut dyn FnMut(&Tick) -> ControlFlow<()>,
    ) -> Result<bool, Error> {
        let before = if step == Step::Distil { Step::Reconstruct } else { Step::Cut };
        let folder = ModelFolder::open(workshop.result(before))?;
        let load = || folder.load(&self.device, self.precision);
        let objective = || {
            let (divergence, mlps) = if step == Step::Distil { (1.0, 0.0) } else { (0.0, 1.0) };
            let objective = Objective { next_token: 0.0, divergence, mlps, ..Objective::default() };
            objective.with_teacher(self.dense, &load()?, self.config.context)
        };
        let out = workshop.result(step);
        let mut config = self.train_config(step);
        if step == Step::Distil && self.config.steps.is_none() {
            config.steps = match workshop.steps() {
                Some(steps) => steps,
                None => {
                    let one = config.clone();
                    let seconds =
                        job(&one, step, &out).seconds_per_step(load()?, corpus, objective()?)?;
                    let all = 3600.0 * self.config.hours;
                    let kept = (MEASURING.0 * all).min(MEASURING.1);
                    let steps = ((all - workshop.seconds() - kept) / seconds) as usize;
                    if steps < 1 {
                        log::warn!(
                            "nothing is left of {} hours for distillation, of which a step takes {seconds:.1} s: one is done",
                            self.config.hours
                        );
                    }
                    let steps = steps.max(1);
                    workshop.set_steps(steps)?;
                    steps
                }
            };
        }
        let all = config.steps;
        if let Some(log) = finished(&out).filter(|log| log.steps == config.steps) {
            // It was complete when the run was stopped, but not yet known to be.
            let left = out.with_extension("run");
            if left.exists() {
                fs::remove_dir_all(&left).map_err(Error::file(&left))?;
            }
            workshop.finish(step, log.seconds, tokens(&config))?;
            return Ok(true);
        }
        let done = job(&config, step, &out).run(
            &folder,
            load()?,
            corpus,
            objective()?,
            &mut |progress| {
                tick(&Tick { step, done: progress.step, all, training: Some(*progress) })
            },
        )?;
        if done {
            let seconds = finished(&out).map_or(0.0, |log| log.seconds);
            workshop.finish(step, seconds, tokens(&config))?;
        }
        Ok(done)
    }

    /// How a step trains. What is not a setting is as measured best: many small steps for each MLP by itself, fewer and
    /// larger ones for the whole model.
    fn train_config(&self, step: Step) -> TrainConfig {
        let Recover { context, seed, .. } = *self.config;
        let distils = step == Step::Distil;
        let (batch, accumulate) = if distils { (2, 2) } else { (1, 1) };
        let steps = match step {
            Step::Distil => self.config.steps.unwrap_or(1),
            _ => self.config.reconstruct_steps,
        };
        TrainConfig::new(steps)
            .with_sequences(Sequences { context, batch })
            .with_accumulate(accumulate)
            .with_lr(if distils { self.config.lr } else { self.config.reconstruct_lr })
            .with_warm_up(if distils { 20.0 } else { 10.0 })
            .with_weight_decay(0.0)
            .with_log_every(5)
            .with_eval_every(if distils { 100 } else { usize::MAX })
            .with_evaluated(16)
            .with_save_every(50)
            .with_only_mlps(true)
            .with_seed(seed)
    }

    fn finish(
        &self,
        workshop: Workshop,
        tick: &mut dyn FnMut(&Tick) -> ControlFlow<()>,
    ) -> Result<Option<Report>, Error> {
        let steps: Vec<(Step, PathBuf)> =
            Step::ALL[..3].iter().map(|step| (*step, workshop.result(*step))).collect();
        let report = report::measure(self, &workshop, &steps, &mut |done, all| {
            tick(&Tick { step: Step::Measure, done, all, training: None })
        })?;
        let Some(report) = report else { return Ok(None) };
        report.warn();
        let last = &steps[2].1;
        let folder = ModelFolder::open(last)?;
        let model = folder.load(&self.device, Precision::File)?.with_precision(self.written)?;
        self.dense.save_with(&model, self.out, Form::Packed, self.replace, |staged| {
            for name in ["recover.json", "loss.svg", "training.svg"] {
                fs::copy(last.join(name), staged.join(name)).map_err(Error::file(last))?;
            }
            report.write(staged)
        })?;
        workshop.remove()?;
        Ok(Some(report))
    }
}

#[cfg(test)]
mod tests;
