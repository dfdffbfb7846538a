//! The folder from which an interrupted run is resumed.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use burn_blast::report::plot::{Series, line_chart};
use burn_blast_checkpoint::atomic::replace_file;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Objective;
use crate::Error;

/// Exit code of a process that was asked to stop.
pub const INTERRUPTED: u8 = 130;

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
    /// Share of blocks removed, if the run prunes.
    #[serde(default)]
    pub sparsity: Vec<(usize, f64)>,
    /// Share of blocks exchanged by an update of the patterns.
    #[serde(default)]
    pub churn: Vec<(usize, f64)>,
    /// Name of the last checkpoint.
    checkpoint: Option<String>,
}

impl Log {
    fn json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("names and numbers only")
    }
}

/// What an unfinished run leaves beside its output, in a folder of the same name and `.run`.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Of the run.
    pub log: Log,
    /// Locked as long as the run is open here. The system unlocks it however the process ends.
    _lock: File,
}

impl RunFolder {
    /// The folder of a run that starts, or of one that is resumed. Settings named in `free` change no result, so they may
    /// differ then.
    ///
    /// # Errors
    /// If there is an unfinished run without `resume`, or none with it, it had other settings or texts, or another process
    /// has it open.
    pub fn open(
        out: &Path,
        settings: Value,
        free: &[&str],
        fingerprint: u64,
        resume: bool,
    ) -> Result<Self, Error> {
        let mut name = out.file_name().unwrap_or_default().to_owned();
        name.push(".run");
        let path = out.with_file_name(name);
        let refuse = |reason: String| Error::unusable(&path, reason);
        let file = path.join("log.json");
        match (resume, file.exists()) {
            (false, true) => Err(refuse("an unfinished run: resume it, or remove it".to_owned())),
            (true, false) => Err(refuse("no unfinished run to resume: start one".to_owned())),
            (false, false) => {
                make_own(&path, |name| {
                    let step = name.strip_prefix("step-");
                    let is_step =
                        step.is_some_and(|step| step.bytes().all(|one| one.is_ascii_digit()));
                    is_step || ["lock", "ledger.jsonl"].contains(&name)
                })?;
                let log = Log { settings, fingerprint, ..Log::default() };
                Ok(Self { _lock: lock(&path)?, path, log })
            }
            (true, true) => {
                let lock = lock(&path)?;
                let bytes = fs::read(&file).map_err(Error::file(&file))?;
                let damaged = |_| refuse("a damaged log.json: start again".to_owned());
                let log: Log = serde_json::from_slice(&bytes).map_err(damaged)?;
                if let Some(difference) = difference("", &log.settings, &settings, free) {
                    return Err(refuse(format!(
                        "a run of other settings, {difference}: resume it with the same ones"
                    )));
                }
                if log.fingerprint != fingerprint {
                    return Err(refuse("a run on another corpus".to_owned()));
                }
                Ok(Self { path, log: Log { settings, ..log }, _lock: lock })
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
    pub fn save(
        &mut self,
        save: impl FnOnce(&Path, &Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let name = format!("step-{:06}", self.log.steps);
        let before = self.log.checkpoint.clone().filter(|before| *before != name);
        let folder = self.path.join(&name);
        fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
        save(&folder.join("model.bpk"), &folder.join("optimizer.bpk"))?;
        let log = Log { checkpoint: Some(name), ..self.log.clone() };
        let path = self.path.join("log.json");
        replace_file(&path, &log.json()).map_err(Error::file(&path))?;
        self.log = log;
        if let Some(before) = before {
            let before = self.path.join(before);
            fs::remove_dir_all(&before).map_err(Error::file(&before))?;
        }
        Ok(())
    }

    /// Writes what is worth keeping of the run into a folder. What was minimised has a chart of its own, unless it is the
    /// loss that is measured on held-out text.
    ///
    /// # Errors
    /// If something cannot be written.
    pub fn record(&self, into: &Path, objective: &Objective) -> Result<(), Error> {
        let log = Log { checkpoint: None, ..self.log.clone() };
        let file = into.join("recover.json");
        fs::write(&file, log.json()).map_err(Error::file(&file))?;
        if self.ledger().exists() {
            fs::copy(self.ledger(), into.join("ledger.jsonl")).map_err(Error::file(into))?;
        }
        let training = Series::over_steps("training", &log.losses);
        let mut curves = vec![Series::over_steps("held out", &log.validation)];
        if objective.is_next_token() {
            curves.insert(0, training);
        } else {
            let path = into.join("training.svg");
            line_chart(&path, "Training objective", "step", "objective", &[training])?;
        }
        Ok(line_chart(&into.join("loss.svg"), "Loss", "step", "nats per token", &curves)?)
    }

    /// Removes the folder of a run that is done.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn remove(self) -> Result<(), Error> {
        fs::remove_dir_all(&self.path).map_err(Error::file(&self.path))
    }
}

/// Makes the folder of a run. One that is there may hold what a run leaves that was stopped before its first checkpoint,
/// and nothing else: the folder is removed at the end.
///
/// # Errors
/// If it is something else, or cannot be made.
pub(crate) fn make_own(folder: &Path, is_ours: impl Fn(&str) -> bool) -> Result<(), Error> {
    if let Ok(entries) = fs::read_dir(folder) {
        for entry in entries {
            let name = entry.map_err(Error::file(folder))?.file_name();
            let name = name.to_string_lossy();
            // A write may have been cut short.
            let is_cut = name.ends_with(".part")
                && ["log.json.", "plan.json."].iter().any(|file| name.starts_with(file));
            if !is_ours(&name) && !is_cut {
                let reason = format!(
                    "\"{name}\" is in it, which no run has made: a run needs this folder for itself and removes it at the end, so \
                     move it away, or write to another output"
                );
                return Err(Error::unusable(folder, reason));
            }
        }
    }
    fs::create_dir_all(folder).map_err(Error::file(folder))
}

/// Locks the folder of a run.
///
/// # Errors
/// If another process has it open.
pub(crate) fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join("lock");
    let file = File::create(&path).map_err(Error::file(&path))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::unusable(
            folder,
            "another process is training here: wait for it, or stop it",
        )),
        // Some file systems have no locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// The first setting that differs, with both values.
pub(crate) fn difference(name: &str, before: &Value, now: &Value, free: &[&str]) -> Option<String> {
    if let (Value::Object(before), Value::Object(now)) = (before, now) {
        let mut names: Vec<&String> = before.keys().chain(now.keys()).collect();
        names.sort();
        names.dedup();
        let part =
            |map: &Map<String, Value>, part: &str| map.get(part).cloned().unwrap_or_default();
        return names.into_iter().filter(|part| !free.contains(&part.as_str())).find_map(|leaf| {
            let dot = if name.is_empty() { "" } else { "." };
            difference(&format!("{name}{dot}{leaf}"), &part(before, leaf), &part(now, leaf), free)
        });
    }
    let said = |value: &Value| match value {
        Value::Null => "nothing".to_owned(),
        value => value.to_string(),
    };
    (before != now).then(|| format!("{name} {} instead of {}", said(before), said(now)))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use serde_json::json;

    use super::*;
    use crate::{Form, ModelFolder, Precision, fine_tune::tests};

    #[test]
    fn a_folder_is_refused_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let open = |settings: u32, fingerprint, resume| {
            RunFolder::open(
                &out,
                json!({"a": {"b": settings, "c": settings}}),
                &["c"],
                fingerprint,
                resume,
            )
        };
        let refuse = |settings, fingerprint, resume| {
            open(settings, fingerprint, resume).unwrap_err().to_string()
        };
        assert!(refuse(1, 7, true).contains("no unfinished run"));
        let mut run = open(1, 7, false).unwrap();
        run.log.steps = 4;
        run.save(|model, _| fs::write(model, "weights").map_err(Error::file(model))).unwrap();
        assert!(refuse(1, 7, false).contains("an unfinished run: resume"));
        assert!(refuse(1, 7, true).contains("another process is training here"));
        let log = run.log.clone();
        drop(run);
        assert!(refuse(2, 7, true).contains("other settings, a.b 1 instead of 2: resume"));
        assert!(refuse(1, 8, true).contains("another corpus"));
        let again = open(1, 7, true).unwrap();
        assert_eq!(again.log, log);
        assert_eq!(fs::read_to_string(again.checkpoint().unwrap().0).unwrap(), "weights");
    }

    #[test]
    fn a_run_is_found_again_whatever_its_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let settings = |more: u32| {
            let single = (0..1000).map(|k| k as f32 / 1000.0).collect::<Vec<_>>();
            let double = (0..1000).map(|k| f64::from(k) / 997.0).collect::<Vec<_>>();
            json!({"single": single, "double": double, "free": more})
        };
        let open = |more, resume| RunFolder::open(&out, settings(more), &["free"], 7, resume);
        let mut run = open(0, false).unwrap();
        for more in 1..4 {
            run.save(|_, _| Ok(())).unwrap();
            drop(run);
            run = open(more, true).unwrap();
            assert_eq!(run.log.settings, settings(more));
        }
    }

    #[test]
    fn a_failed_save_leaves_the_checkpoint_before() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = RunFolder::open(&folder.path().join("out"), json!(1), &[], 7, false).unwrap();
        run.save(|model, _| fs::write(model, "good").map_err(Error::file(model))).unwrap();
        let good = run.log.clone();
        run.log.steps = 9;
        assert!(run.save(|_, _| Err(Error::setting("disk", "full", "free"))).is_err());
        drop(run);
        let again = RunFolder::open(&folder.path().join("out"), json!(1), &[], 7, true).unwrap();
        assert_eq!(again.log, good);
        assert_eq!(fs::read_to_string(again.checkpoint().unwrap().0).unwrap(), "good");
    }

    #[test]
    fn a_finished_run_is_there_with_all_its_files_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let mut run = RunFolder::open(&out, json!(1), &[], 7, false).unwrap();
        run.log.losses = vec![(10, 2.0), (20, 1.5)];
        run.save(|model, _| fs::write(model, "weights").map_err(Error::file(model))).unwrap();
        let checkpoint = ModelFolder::new(tests::config()).unwrap();
        let model = tests::model(DType::F32);
        let disk_full = checkpoint.save_with(&model, &out, Form::Packed, false, |staged| {
            run.record(staged, &Objective::default())?;
            Err(Error::setting("disk", "full", "free"))
        });
        assert!(disk_full.unwrap_err().to_string().contains("disk is full"));
        let names = || -> Vec<_> {
            fs::read_dir(folder.path()).unwrap().map(|one| one.unwrap().file_name()).collect()
        };
        assert_eq!(names(), ["out.run"]);
        // Someone else takes the name meanwhile.
        let taken = checkpoint.save_with(&model, &out, Form::Packed, false, |_| {
            fs::create_dir(&out).map_err(Error::file(&out))?;
            fs::write(out.join("theirs"), "").map_err(Error::file(&out))
        });
        assert!(taken.is_err());
        assert_eq!(names().len(), 2, "no temporary folder is left");
        fs::remove_dir_all(&out).unwrap();
        checkpoint
            .save_with(&model, &out, Form::Packed, false, |staged| {
                run.record(staged, &Objective::default())
            })
            .unwrap();
        run.remove().unwrap();
        assert_eq!(names(), ["out"]);
        let log: Log =
            serde_json::from_slice(&fs::read(out.join("recover.json")).unwrap()).unwrap();
        assert_eq!((log.losses, log.checkpoint), (vec![(10, 2.0), (20, 1.5)], None));
        assert!(out.join("loss.svg").exists());
        ModelFolder::open(&out).unwrap().load(&Device::flex(), Precision::File).unwrap();
    }
}
