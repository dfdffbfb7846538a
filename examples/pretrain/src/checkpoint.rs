//! What lies in the output folder, and how an interrupted run finds its way back.
//!
//! A checkpoint is a folder of its own with model and optimizer. `state.json` names the one that counts and is
//! renamed into place last, so the folder is in order after a crash at any moment.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn_blast_checkpoint::atomic::replace_file;
use serde::{Deserialize, Serialize};

use crate::args::Config;

/// Layout of `state.json`; another number is refused.
const VERSION: u32 = 1;

/// What a finished run leaves beside its checkpoints.
const WRITTEN: [&str; 9] = [
    "state.json",
    "ledger.jsonl",
    "report.json",
    "report.md",
    "loss.svg",
    "sparsity.svg",
    "churn.svg",
    "model.bpk",
    "patterns",
];

/// The part of the experiment that is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The dense baseline.
    Dense,
    /// The same with BLaST.
    Sparse,
    /// Measuring and writing the report.
    Report,
    /// Everything is written.
    Finished,
}

impl Phase {
    /// The name used in file names and on the screen.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Sparse => "sparse",
            Self::Report => "report",
            Self::Finished => "finished",
        }
    }
}

/// One of the two runs so far: where it stands and what it measured, as `(step, value)`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunLog {
    /// Optimizer steps done.
    pub steps: usize,
    /// Folder of the checkpoint at that step.
    pub checkpoint: Option<String>,
    /// Training loss, mean over the steps since the entry before.
    pub losses: Vec<(usize, f64)>,
    /// Validation loss.
    pub validation: Vec<(usize, f64)>,
    /// Share of removed blocks.
    pub sparsity: Vec<(usize, f64)>,
    /// Share of blocks exchanged at a change of the pattern.
    pub churn: Vec<(usize, f64)>,
    /// Training time.
    pub seconds: f64,
    /// Peak memory of the process meanwhile.
    pub peak_bytes: Option<u64>,
}

impl RunLog {
    /// The validation loss after the last step.
    pub fn final_validation(&self) -> Option<f64> {
        self.validation.last().map(|(_, loss)| *loss)
    }
}

/// The whole experiment so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// The settings, fixed for the life of the run.
    pub config: Config,
    /// Fingerprint of the corpus.
    pub corpus: u64,
    /// What is to be done next.
    pub phase: Phase,
    /// The dense run.
    pub dense: RunLog,
    /// The sparse run.
    pub sparse: RunLog,
}

impl State {
    /// An experiment about to start.
    pub fn new(config: Config, corpus: u64) -> Self {
        let (dense, sparse) = Default::default();
        Self { version: VERSION, config, corpus, phase: Phase::Dense, dense, sparse }
    }

    /// The log of one of the two runs.
    pub fn log(&self, phase: Phase) -> &RunLog {
        if phase == Phase::Dense { &self.dense } else { &self.sparse }
    }

    /// The log of one of the two runs, to write in.
    pub fn log_mut(&mut self, phase: Phase) -> &mut RunLog {
        if phase == Phase::Dense { &mut self.dense } else { &mut self.sparse }
    }
}

/// The output folder.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The store in `folder`, which need not exist yet.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf() }
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file or folder of the store.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The model file of a checkpoint.
    pub fn model(&self, checkpoint: &str) -> PathBuf {
        self.folder.join(checkpoint).join("model.bpk")
    }

    /// The optimizer file of a checkpoint.
    pub fn optimizer(&self, checkpoint: &str) -> PathBuf {
        self.folder.join(checkpoint).join("optimizer.bpk")
    }

    /// Makes the folder and removes what a finished run left in it: a new one may draw fewer plots.
    ///
    /// # Errors
    /// If the folder holds an unfinished run, or cannot be written.
    pub fn start(&self) -> Result<()> {
        if self.path("state.json").exists() {
            let before = self.state()?;
            ensure!(
                before.phase == Phase::Finished,
                "{} holds an unfinished run: add --resume to go on with it, or choose another folder with --out",
                self.folder.display()
            );
            for name in WRITTEN {
                self.remove(name)?;
            }
            for checkpoint in
                [before.dense.checkpoint, before.sparse.checkpoint].into_iter().flatten()
            {
                self.remove(&checkpoint)?;
            }
        }
        self.create_folder(&self.folder)
    }

    /// Reads the state of the run in the folder.
    ///
    /// # Errors
    /// If there is none or it cannot be understood.
    pub fn state(&self) -> Result<State> {
        let path = self.path("state.json");
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "there is no run to go on with in {}: leave out --resume to start one",
                self.folder.display()
            )
        })?;
        let state: State = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is damaged: remove the folder and start again without --resume",
                path.display()
            )
        })?;
        ensure!(
            state.version == VERSION,
            "{} was written by another version of this program (layout {}, this one knows {VERSION}): \
             start again without --resume in another --out",
            path.display(),
            state.version
        );
        Ok(state)
    }

    /// Writes the state, in one piece or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_state(&self, state: &State) -> Result<()> {
        self.write("state.json", &serde_json::to_vec_pretty(state)?)
    }

    /// Writes a checkpoint of a run with `save`, makes it the one that counts, and removes the one before.
    ///
    /// # Errors
    /// If anything cannot be written; the checkpoint before then still counts.
    pub fn checkpoint(
        &self,
        state: &mut State,
        phase: Phase,
        save: impl FnOnce(&Path, &Path) -> Result<()>,
    ) -> Result<()> {
        let name = format!("{}-{:06}", phase.name(), state.log(phase).steps);
        let before = state.log(phase).checkpoint.clone();
        self.create_folder(&self.path(&name))?;
        save(&self.model(&name), &self.optimizer(&name))?;
        state.log_mut(phase).checkpoint = Some(name.clone());
        self.write_state(state)?;
        if let Some(before) = before.filter(|before| *before != name) {
            self.remove(&before)?;
        }
        Ok(())
    }

    /// Writes a file through a temporary one in the same folder.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(name);
        replace_file(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }

    fn create_folder(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))
    }

    /// Removes a file or folder of the store, if it is there.
    fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(text: &'static str) -> impl FnOnce(&Path, &Path) -> Result<()> {
        move |model, optimizer| {
            fs::write(model, text)?;
            Ok(fs::write(optimizer, text)?)
        }
    }

    #[test]
    fn a_checkpoint_comes_back_and_replaces_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        store.start().unwrap();
        let mut state = State::new(Config::default(), 17);
        for steps in [100, 200] {
            let log = state.log_mut(Phase::Sparse);
            log.steps = steps;
            log.losses.push((steps, 1.25));
            store.checkpoint(&mut state, Phase::Sparse, save("weights")).unwrap();
        }
        let read = store.state().unwrap();
        assert_eq!(read, state);
        assert_eq!(read.sparse.checkpoint.as_deref(), Some("sparse-000200"));
        assert!(store.model("sparse-000200").exists());
        assert!(!store.model("sparse-000100").exists());
    }

    #[test]
    fn a_failed_save_leaves_the_checkpoint_before() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let mut state = State::new(Config::default(), 0);
        store.checkpoint(&mut state, Phase::Dense, save("good")).unwrap();
        let good = store.state().unwrap();
        state.dense.steps = 1;
        let failed =
            store.checkpoint(&mut state, Phase::Dense, |_, _| anyhow::bail!("the disk is full"));
        assert!(failed.is_err());
        assert_eq!(store.state().unwrap(), good);
        assert!(store.model("dense-000000").exists());
    }

    #[test]
    fn an_unfinished_run_is_not_overwritten_and_a_finished_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let mut state = State::new(Config::default(), 0);
        store.write_state(&state).unwrap();
        assert!(store.start().unwrap_err().to_string().contains("add --resume"));
        state.phase = Phase::Finished;
        store.write_state(&state).unwrap();
        fs::create_dir(store.path("patterns")).unwrap();
        for name in ["report.md", "churn.svg", "patterns/layer-0-up.svg", "notes.txt"] {
            fs::write(store.path(name), "before").unwrap();
        }
        store.start().unwrap();
        assert!(store.state().is_err());
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.txt"], "what others put there stays");
    }

    #[test]
    fn another_layout_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let state = State { version: 99, ..State::new(Config::default(), 0) };
        store.write_state(&state).unwrap();
        assert!(store.state().unwrap_err().to_string().contains("layout 99"));
    }
}
