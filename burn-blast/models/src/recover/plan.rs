//! The folder beside the output in which the results of the steps are.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use burn_blast::tuning::{bf16_allowed, has_dot_products};
use burn_blast_checkpoint::atomic::replace_file;
use serde::{Deserialize, Serialize};

use super::{Recover, Recovery, Step};
use crate::Error;
use crate::corpus::Corpus;
use crate::fine_tune::{difference, lock, make_own};

/// What a run was asked for, and what it did so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Plan {
    settings: Recover,
    /// Data type and device, by their names.
    compute: String,
    /// Whether products round to bf16.
    #[serde(default)]
    bf16_products: bool,
    /// Of the dense model.
    model: u64,
    /// Of the texts.
    texts: u64,
    /// Steps of distillation that the hours allow, once they are known.
    steps: Option<usize>,
    done: Vec<Done>,
}

/// A step that is done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Done {
    pub(super) step: Step,
    /// That it took.
    pub(super) seconds: f64,
    /// That it was trained on.
    pub(super) tokens: usize,
}

/// The folder of a run.
#[derive(Debug)]
pub(super) struct Workshop {
    path: PathBuf,
    plan: Plan,
    /// Locked as long as the run is open here.
    _lock: File,
}

impl Workshop {
    /// The folder of a run that starts, or of one that is resumed.
    pub(super) fn open(recovery: &Recovery<'_>, corpus: &Corpus) -> Result<Self, Error> {
        let mut name = recovery.out.file_name().unwrap_or_default().to_owned();
        name.push(".recover");
        let path = recovery.out.with_file_name(name);
        let asked = Plan {
            settings: recovery.config.clone(),
            compute: format!(
                "{:?} on {:?}, written in {:?}",
                recovery.precision, recovery.device, recovery.written
            ),
            bf16_products: bf16_allowed() && has_dot_products(),
            model: recovery.dense.fingerprint()?,
            texts: corpus.fingerprint(),
            steps: None,
            done: Vec::new(),
        };
        let file = path.join("plan.json");
        let refuse = |reason: &str| Error::unusable(&path, reason);
        match (recovery.resume, file.exists()) {
            (false, true) => return Err(refuse("an unfinished run: resume it, or remove it")),
            (true, false) => return Err(refuse("no unfinished run to resume: start one")),
            (false, false) => {}
            (true, true) => {
                let lock = lock(&path)?;
                let text = fs::read_to_string(&file).map_err(Error::file(&file))?;
                let plan: Plan = serde_json::from_str(&text).map_err(|_| {
                    refuse("a damaged plan.json: remove the folder and start again")
                })?;
                let (steps, done) = (plan.steps, plan.done.clone());
                let settings = |plan: &Plan| {
                    serde_json::to_value(&plan.settings).expect("names and numbers only")
                };
                if let Some(what) = difference("", &settings(&plan), &settings(&asked), &[]) {
                    return Err(refuse(&format!(
                        "a run of other settings, {what}: resume it with the same ones"
                    )));
                }
                for (what, differs) in [
                    ("of another model", plan.model != asked.model),
                    ("on other texts", plan.texts != asked.texts),
                    ("with another data type or device", plan.compute != asked.compute),
                    ("with products in f32", asked.bf16_products && !plan.bf16_products),
                    ("with products in bf16", plan.bf16_products && !asked.bf16_products),
                ] {
                    if differs {
                        return Err(refuse(&format!("a run {what}: resume it as it was started")));
                    }
                }
                let plan = Plan { steps, done, ..asked };
                return Ok(Self { path, plan, _lock: lock });
            }
        }
        make_own(&path, |name| name == "lock")?;
        let workshop = Self { _lock: lock(&path)?, path, plan: asked };
        workshop.write()?;
        Ok(workshop)
    }

    fn write(&self) -> Result<(), Error> {
        let file = self.path.join("plan.json");
        let text = serde_json::to_vec_pretty(&self.plan).expect("names and numbers only");
        replace_file(&file, &text).map_err(Error::file(&file))
    }

    /// Folder of the model that a step makes.
    pub(super) fn result(&self, step: Step) -> PathBuf {
        self.path.join(step.name())
    }

    /// Whether products round to bf16.
    pub(super) fn bf16_products(&self) -> bool {
        self.plan.bf16_products
    }

    pub(super) fn is_done(&self, step: Step) -> bool {
        self.plan.done.iter().any(|done| done.step == step)
    }

    pub(super) fn finish(&mut self, step: Step, seconds: f64, tokens: usize) -> Result<(), Error> {
        self.plan.done.push(Done { step, seconds, tokens });
        self.write()
    }

    pub(super) fn done(&self) -> &[Done] {
        &self.plan.done
    }

    /// Of all steps that are done.
    pub(super) fn seconds(&self) -> f64 {
        self.plan.done.iter().map(|done| done.seconds).sum()
    }

    /// Steps of distillation, once they are known.
    pub(super) fn steps(&self) -> Option<usize> {
        self.plan.steps
    }

    pub(super) fn set_steps(&mut self, steps: usize) -> Result<(), Error> {
        self.plan.steps = Some(steps);
        self.write()
    }

    /// Removes the folder of a run that is done.
    pub(super) fn remove(self) -> Result<(), Error> {
        // Renamed first: what is left if this is cut short is no run.
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let path: &Path = &self.path.with_file_name(name);
        fs::rename(&self.path, path).map_err(Error::file(&self.path))?;
        fs::remove_dir_all(path).map_err(Error::file(path))
    }
}
