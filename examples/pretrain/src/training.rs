//! The three training runs, on the trainer of `burn-blast-models`.

use std::fs;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::Result;
use burn::module::Module;
use burn::tensor::Device;
use burn_blast_models::fine_tune::{
    Objective, Progress, RunFolder, Session, TrainConfig, Trainee, evaluate,
};
use burn_blast_models::{Batch, Corpus, Model};
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::Config;
use crate::model;
use crate::report::Runs;
use crate::say::say;
use crate::store::{Phase, State, Store};

/// What every part of the experiment works with.
pub struct Experiment<'a> {
    /// The settings.
    pub config: &'a Config,
    /// The output folder.
    pub store: &'a Store,
    /// The text.
    pub corpus: &'a Corpus,
    /// Where to train, with autodiff.
    pub device: Device,
    /// Settings of each run.
    train: Runs<TrainConfig>,
    /// Validation batches, the same for every evaluation.
    validation: Vec<Batch>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Complete,
    /// It was asked to stop after this step; a checkpoint is written.
    Interrupted(usize),
}

impl<'a> Experiment<'a> {
    /// Prepares for training on `device`, which is without autodiff.
    pub fn new(config: &'a Config, corpus: &'a Corpus, store: &'a Store, device: &Device) -> Self {
        let train = Runs::of(|phase| config.train(phase));
        let TrainConfig { sequences, evaluated, .. } = train.dense;
        let validation = corpus.held_out(sequences, evaluated, device);
        Self { config, store, corpus, device: device.clone().autodiff(), train, validation }
    }

    /// What a training step of a run works with.
    pub fn session(&self, phase: Phase) -> Session<'_> {
        Session {
            config: self.train.get(phase),
            corpus: self.corpus,
            objective: Objective::default(),
        }
    }

    /// Mean validation loss in nats per byte.
    pub fn evaluate(&self, model: &Model) -> Result<f64> {
        Ok(evaluate(&model.valid(), &self.validation)?)
    }

    /// The model of a run before its first step: dense, narrow, or the dense weights packed into blocks.
    pub fn fresh_model(&self, phase: Phase, seed: u64) -> Result<Model> {
        let narrow = (phase == Phase::Narrow).then(|| self.config.narrow());
        let config = narrow.as_ref().unwrap_or(self.config);
        let mut model = model::dense(config, seed, &self.device)?;
        if phase == Phase::Sparse {
            let blocks = self.config.blocks();
            match self.config.start_sparse {
                true => model.start_sparse(&blocks, seed)?,
                false => model.pack(&blocks)?,
            }
        }
        Ok(model)
    }

    /// The folder of a run.
    pub fn folder(&self, phase: Phase) -> Result<RunFolder> {
        self.store.run(phase, self.corpus.fingerprint())
    }

    /// The model of a run as its folder has it, with optimizer and, in the sparse run, pruning.
    pub fn trainee(&self, phase: Phase, folder: &RunFolder) -> Result<Trainee> {
        let model = self.fresh_model(phase, self.config.seed)?;
        let blast = (phase == Phase::Sparse)
            .then(|| model.couple(self.config.blast(), self.config.structure));
        Ok(Trainee::new(model, self.train.get(phase), blast.as_ref(), Some(folder))?)
    }

    /// A dense model before its first step that multiplies by Burn's products.
    pub fn dense_by_burn(&self) -> Result<Trainee> {
        let config = self.train.dense.clone().with_pack_dense(false);
        let model = self.fresh_model(Phase::Dense, self.config.seed)?;
        Ok(Trainee::new(model, &config, None, None)?)
    }

    /// The trained model of a run, without autodiff.
    pub fn trained(&self, phase: Phase) -> Result<Model> {
        Ok(self.trainee(phase, &self.folder(phase)?)?.into_model())
    }

    /// Trains one of the runs to its end, or until `stop`, asked after each step, says so.
    pub fn train(
        &self,
        state: &mut State,
        phase: Phase,
        stop: &dyn Fn() -> bool,
    ) -> Result<Outcome> {
        // Starts a new count of the peak. Where the system refuses, the peak is the one of the process so far: still an
        // upper bound.
        let _ = fs::write("/proc/self/clear_refs", "5");
        let mut folder = self.folder(phase)?;
        let trainee = self.trainee(phase, &folder)?;
        let mut screen = Screen::new(phase, self.config, &folder);
        let mut report = |progress: &Progress| {
            screen.show(progress);
            if stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let (_, complete) = self.session(phase).train(trainee, &mut folder, &mut report)?;
        let peak = state.peak_bytes_mut(phase);
        *peak = peak_bytes().max(*peak);
        self.store.write_state(state)?;
        screen.close(complete);
        Ok(if complete { Outcome::Complete } else { Outcome::Interrupted(folder.log.steps) })
    }
}

/// Largest resident size of the process since the count began, in bytes; known on Linux only.
fn peak_bytes() -> Option<u64> {
    peak_from_status(&fs::read_to_string("/proc/self/status").ok()?)
}

fn peak_from_status(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// The progress bar of a run, and a line per evaluation.
struct Screen {
    phase: Phase,
    steps: usize,
    /// Bytes of a step.
    bytes: usize,
    bar: ProgressBar,
    /// Step and seconds of training at which the rate was taken.
    latest: (usize, f64),
    /// Bytes per second of training, lately.
    rate: f64,
}

impl Screen {
    fn new(phase: Phase, config: &Config, folder: &RunFolder) -> Self {
        let (steps, done) = (config.steps, folder.log.steps);
        let bar =
            ProgressBar::new(steps as u64).with_position(done as u64).with_prefix(phase.name());
        let template = "{prefix:>6} {bar:30} {pos}/{len}, {msg}, {eta} left";
        bar.set_style(ProgressStyle::with_template(template).expect("the template is valid"));
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(500));
        let latest = (done, folder.log.seconds);
        Self { phase, steps, bytes: config.tokens_per_step(), bar, latest, rate: 0.0 }
    }

    fn show(&mut self, progress: &Progress) {
        let Progress { step, seconds, loss, sparsity, held_out } = *progress;
        self.bar.set_position(step as u64);
        let loss = loss.unwrap_or(f64::NAN);
        if seconds > self.latest.1 {
            let steps = step - self.latest.0;
            self.rate = (steps * self.bytes) as f64 / (seconds - self.latest.1);
            self.latest = (step, seconds);
            let sparsity = 100.0 * sparsity.unwrap_or(0.0);
            self.bar.set_message(format!(
                "loss {loss:.3}, {sparsity:.1} % sparse, {:.0} bytes/s",
                self.rate
            ));
        }
        let Some(held_out) = held_out else { return };
        let line = format!(
            "{:>6} step {step:>5}/{}: training loss {loss:.4}, validation loss {held_out:.4} nats/byte, {:.0} bytes/s",
            self.phase.name(),
            self.steps,
            self.rate
        );
        self.bar.suspend(|| say(&line));
    }

    fn close(self, complete: bool) {
        match complete {
            true => self.bar.finish_and_clear(),
            false => self.bar.abandon(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_in_bytes() {
        let status = "Name:\tpretrain\nVmPeak:\t  99 kB\nVmHWM:\t    1234 kB\n";
        assert_eq!(peak_from_status(status), Some(1234 * 1024));
        assert_eq!(peak_from_status("Name:\tpretrain\n"), None);
    }
}
