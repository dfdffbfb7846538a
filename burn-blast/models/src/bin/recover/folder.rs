//! The folder in which an interrupted run is found again.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use burn_blast::report::plot::{Series, line_chart};
use example_backend::replace_file;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A run so far, as `(step, value)`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Log {
    /// Settings, fixed for the life of the run.
    settings: Value,
    /// Of the corpus.
    fingerprint: u64,
    /// Optimizer steps done.
    pub steps: usize,
    /// Seconds of training.
    pub seconds: f64,
    /// Training loss, mean over the steps since the entry before.
    pub losses: Vec<(usize, f64)>,
    /// Loss of the next token on held-out text.
    pub validation: Vec<(usize, f64)>,
    /// Name of the last checkpoint.
    checkpoint: Option<String>,
}

/// What an unfinished run leaves beside its OUT.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Of the run.
    pub log: Log,
}

impl Folder {
    /// The folder of a run that starts, or of one that goes on.
    ///
    /// # Errors
    /// If there is an unfinished run without `resume`, or none with it, or it had other settings or texts.
    pub fn open(out: &Path, settings: Value, fingerprint: u64, resume: bool) -> Result<Self> {
        let mut name = out.file_name().context("OUT must name a folder")?.to_owned();
        name.push(".run");
        let path = out.with_file_name(name);
        ensure!(!out.exists(), "{} exists: choose another OUT, or remove it", out.display());
        let file = path.join("log.json");
        match (resume, file.exists()) {
            (false, true) => bail!(
                "{} holds an unfinished run: add --resume to go on with it, or remove it",
                path.display()
            ),
            (true, false) => bail!(
                "there is no unfinished run in {}: leave out --resume to start one",
                path.display()
            ),
            (false, false) => {
                fs::create_dir_all(&path)
                    .with_context(|| format!("cannot make the folder {}", path.display()))?;
                let log = Log { settings, fingerprint, ..Log::default() };
                Ok(Self { path, log })
            }
            (true, true) => {
                let log: Log = serde_json::from_slice(&fs::read(&file)?)
                    .with_context(|| format!("{} is damaged: start again", file.display()))?;
                ensure!(
                    log.settings == settings,
                    "the run in {} had other settings: go on with the same ones, or start another",
                    path.display()
                );
                ensure!(
                    log.fingerprint == fingerprint,
                    "the corpus is not the one the run in {} began with",
                    path.display()
                );
                Ok(Self { path, log })
            }
        }
    }

    /// Model and optimizer of the last checkpoint.
    pub fn checkpoint(&self) -> Option<(PathBuf, PathBuf)> {
        let folder = self.path.join(self.log.checkpoint.as_ref()?);
        Some((folder.join("model.bpk"), folder.join("optimizer.bpk")))
    }

    /// File for what pruning does.
    pub fn ledger(&self) -> PathBuf {
        self.path.join("ledger.jsonl")
    }

    /// Writes a checkpoint with `save`; it counts when it is whole, and the one before goes.
    ///
    /// # Errors
    /// If something cannot be written; the one before then still counts.
    pub fn save(&mut self, save: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<()> {
        let name = format!("step-{:06}", self.log.steps);
        let before = self.log.checkpoint.clone().filter(|before| *before != name);
        let folder = self.path.join(&name);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        save(&folder.join("model.bpk"), &folder.join("optimizer.bpk"))?;
        let log = Log { checkpoint: Some(name), ..self.log.clone() };
        let path = self.path.join("log.json");
        replace_file(&path, &serde_json::to_vec(&log)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        self.log = log;
        if let Some(before) = before {
            fs::remove_dir_all(self.path.join(before))?;
        }
        Ok(())
    }

    /// Writes what is worth keeping of the run into a folder.
    ///
    /// # Errors
    /// If something cannot be written.
    pub fn record(&self, into: &Path) -> Result<()> {
        let log = Log { checkpoint: None, ..self.log.clone() };
        fs::write(into.join("recover.json"), serde_json::to_vec_pretty(&log)?)?;
        if self.ledger().exists() {
            fs::copy(self.ledger(), into.join("ledger.jsonl"))?;
        }
        let series = |name: &str, points: &[(usize, f64)]| Series {
            name: name.to_owned(),
            points: points.iter().map(|(step, value)| (*step as f64, *value)).collect(),
        };
        let curves = [series("training", &log.losses), series("held out", &log.validation)];
        Ok(line_chart(&into.join("loss.svg"), "Loss", "step", "nats per token", &curves)?)
    }

    /// Removes the folder of a run that is done.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.path)
            .with_context(|| format!("cannot remove {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use burn_blast_models::{Checkpoint, Form, Precision};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_folder_is_refused_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let open = |settings: u32, fingerprint, resume| {
            Folder::open(&out, json!(settings), fingerprint, resume)
        };
        let refuse = |settings, fingerprint, resume| {
            open(settings, fingerprint, resume).unwrap_err().to_string()
        };
        assert!(refuse(1, 7, true).contains("leave out --resume"));
        let mut run = open(1, 7, false).unwrap();
        run.log.steps = 4;
        run.save(|model, _| Ok(fs::write(model, "weights")?)).unwrap();
        assert!(refuse(1, 7, false).contains("add --resume"));
        assert!(refuse(2, 7, true).contains("other settings"));
        assert!(refuse(1, 8, true).contains("the corpus is not the one"));
        let again = open(1, 7, true).unwrap();
        assert_eq!(again.log, run.log);
        assert_eq!(fs::read_to_string(again.checkpoint().unwrap().0).unwrap(), "weights");
        fs::create_dir(&out).unwrap();
        assert!(refuse(1, 7, true).contains("exists: choose another OUT"));
    }

    #[test]
    fn a_failed_save_leaves_the_checkpoint_before() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = Folder::open(&folder.path().join("out"), json!(1), 7, false).unwrap();
        run.save(|model, _| Ok(fs::write(model, "good")?)).unwrap();
        let good = run.log.clone();
        run.log.steps = 9;
        assert!(run.save(|_, _| bail!("the disk is full")).is_err());
        let again = Folder::open(&folder.path().join("out"), json!(1), 7, true).unwrap();
        assert_eq!(again.log, good);
        assert_eq!(fs::read_to_string(again.checkpoint().unwrap().0).unwrap(), "good");
    }

    #[test]
    fn a_finished_run_is_there_with_all_its_files_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let mut run = Folder::open(&out, json!(1), 7, false).unwrap();
        run.log.losses = vec![(10, 2.0), (20, 1.5)];
        run.save(|model, _| Ok(fs::write(model, "weights")?)).unwrap();
        let checkpoint = Checkpoint::new(crate::train::tests::config()).unwrap();
        let model = crate::train::tests::model(DType::F32);
        let disk_full = checkpoint.save_with(&model, &out, Form::Packed, |staged| {
            run.record(staged)?;
            bail!("the disk is full")
        });
        assert_eq!(disk_full.unwrap_err().to_string(), "the disk is full");
        let names = || -> Vec<_> {
            fs::read_dir(folder.path()).unwrap().map(|one| one.unwrap().file_name()).collect()
        };
        assert_eq!(names(), ["out.run"]);
        // Someone else takes the name meanwhile.
        let taken = checkpoint.save_with(&model, &out, Form::Packed, |_| {
            fs::create_dir(&out)?;
            Ok::<_, anyhow::Error>(fs::write(out.join("theirs"), "")?)
        });
        assert!(taken.is_err());
        assert_eq!(names().len(), 2, "no temporary folder is left");
        fs::remove_dir_all(&out).unwrap();
        checkpoint.save_with(&model, &out, Form::Packed, |staged| run.record(staged)).unwrap();
        run.remove().unwrap();
        assert_eq!(names(), ["out"]);
        let log: Log =
            serde_json::from_slice(&fs::read(out.join("recover.json")).unwrap()).unwrap();
        assert_eq!((log.losses, log.checkpoint), (vec![(10, 2.0), (20, 1.5)], None));
        assert!(out.join("loss.svg").exists());
        Checkpoint::open(&out).unwrap().load(&Device::flex(), Precision::File).unwrap();
    }
}
