//! A run: what is trained, how it is kept, and what becomes of it.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn_blast::functions::is_host;
use burn_blast::io::IoError;
use burn_blast::prune::BlastConfig;
use burn_blast_checkpoint::check_output;
use serde_json::Value;

use super::trainer::read;
use super::{Objective, Progress, RunFolder, Session, TrainConfig, Trainee};
use crate::corpus::Corpus;
use crate::host::Packed;
use crate::parallel::at_once;
use crate::{Error, Form, Model, ModelFolder, Precision};

/// Share of a step's gradients that its optimizer takes, as measured on SmolLM2-135M with 1024 tokens a step.
const OPTIMIZER: f64 = 0.06;

/// A training run that can be interrupted and resumed, and ends with a checkpoint.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// How the model is trained.
    pub config: &'a TrainConfig,
    /// Pruning, if asked for.
    pub blast: Option<&'a BlastConfig>,
    /// All settings, recorded with the run; a run is resumed with the same ones only.
    pub settings: Value,
    /// Names of settings that change no result, such as how often a checkpoint is written: they may differ.
    pub free: &'a [&'a str],
    /// Folder to write.
    pub out: &'a Path,
    /// Whether a folder that exists is replaced.
    pub replace: bool,
    /// How block-sparse weights are written.
    pub form: Form,
    /// Data type of the written weights; `File` keeps the data type of the trained model.
    pub precision: Precision,
    /// Resume the interrupted run of this output.
    pub resume: bool,
}

impl Job<'_> {
    /// Trains `model`, which belongs to `checkpoint`, and writes it; returns whether the run is complete. `report` is
    /// called after every step, and stops the run by breaking.
    ///
    /// # Errors
    /// If the settings are not valid, a file cannot be read or written, or the loss is no longer a number.
    pub fn run(
        &self,
        checkpoint: &ModelFolder,
        model: Model,
        corpus: &Corpus,
        objective: Objective,
        report: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<bool, Error> {
        self.config.check()?;
        objective.check()?;
        check_output(None, true, self.out, self.replace).map_err(IoError::from)?;
        let (settings, fingerprint) = (self.settings.clone(), corpus.fingerprint());
        let mut folder = RunFolder::open(self.out, settings, self.free, fingerprint, self.resume)?;
        let objective = teacher_for_host(objective, &model)?;
        let trainee = Trainee::new(model.train(), self.config, self.blast, Some(&folder))?;
        let session = Session { config: self.config, corpus, objective };
        let (trainee, done) = session.train(trainee, &mut folder, report)?;
        if done {
            let model = trainee.into_model().with_precision(self.precision)?;
            let record = |staged: &Path| folder.record(staged, &session.objective);
            checkpoint.save_with(&model, self.out, self.form, self.replace, record)?;
            folder.remove()?;
        }
        Ok(done)
    }

    /// About how many seconds a step of this job takes here, from the gradients of a few batches.
    ///
    /// # Errors
    /// If a setting is not valid, or the device fails.
    pub fn seconds_per_step(
        &self,
        model: Model,
        corpus: &Corpus,
        objective: Objective,
    ) -> Result<f64, Error> {
        self.config.check()?;
        let objective = teacher_for_host(objective, &model)?;
        let mut model = model.train();
        Packed::pack(&mut model, self.config)?;
        if self.config.only_mlps {
            model = model.only_mlps_trained();
        }
        // As many at once as in a step.
        let count = at_once(&model.device()).min(self.config.accumulate);
        let numbers: Vec<usize> = (0..count).collect();
        let session = Session { config: self.config, corpus, objective };
        let run = || -> Result<f64, Error> {
            let clock = Instant::now();
            read(session.batches(&model, &numbers).into_iter().map(|(loss, _)| loss).collect())?;
            Ok(clock.elapsed().as_secs_f64())
        };
        // The first run fills caches, and has kernels tuned on a GPU.
        run()?;
        let batches = self.config.accumulate as f64 / count as f64;
        Ok(run()? * batches * (1.0 + OPTIMIZER))
    }
}

/// The objective with its teacher in the form in which the device of the student runs it fastest.
fn teacher_for_host(mut objective: Objective, student: &Model) -> Result<Objective, Error> {
    if is_host(&student.device()) {
        objective.teacher = objective.teacher.map(Model::for_many_scores).transpose()?;
    }
    Ok(objective)
}
