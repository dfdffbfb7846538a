//! The output folder. `state.json` says what is done; `dense.run`, `narrow.run` and `sparse.run` hold the log and the
//! checkpoint of each run, as any run of `burn-blast-models` does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn_blast_checkpoint::atomic::replace_file;
use burn_blast_models::fine_tune::RunFolder;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::Config;
use crate::report::Runs;

/// Layout of `state.json`; another number is refused.
const VERSION: u32 = 5;

/// What a finished run leaves.
const WRITTEN: [&str; 13] = [
    "dense.run",
    "narrow.run",
    "sparse.run",
    "ledger.jsonl",
    "report.json",
    "report.md",
    "loss.svg",
    "time.svg",
    "sparsity.svg",
    "churn.svg",
    "model.bpk",
    "patterns",
    // Last: without it, nothing says whose the others are.
    "state.json",
];

/// The part of the experiment that is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The dense baseline.
    Dense,
    /// A narrower dense model of as many parameters as the sparse one ends with.
    Narrow,
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
            Self::Narrow => "narrow",
            Self::Sparse => "sparse",
            Self::Report => "report",
            Self::Finished => "finished",
        }
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
    /// Peak memory of the process in each run, where the system reports it.
    pub peak_bytes: Runs<Option<u64>>,
}

impl State {
    /// An experiment about to start.
    pub fn new(config: Config, corpus: u64) -> Self {
        let peak_bytes = Runs { dense: None, narrow: None, sparse: None };
        Self { version: VERSION, config, corpus, phase: Phase::Dense, peak_bytes }
    }

    /// Peak memory in one of the runs.
    pub fn peak_bytes_mut(&mut self, phase: Phase) -> &mut Option<u64> {
        let Runs { dense, narrow, sparse } = &mut self.peak_bytes;
        match phase {
            Phase::Dense => dense,
            Phase::Narrow => narrow,
            Phase::Sparse | Phase::Report | Phase::Finished => sparse,
        }
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

    /// The folder of one of the runs, made if it is not there.
    ///
    /// # Errors
    /// If it cannot be made or read, or belongs to another corpus.
    pub fn run(&self, phase: Phase, corpus: u64) -> Result<RunFolder> {
        let out = self.path(phase.name());
        let resume = out.with_extension("run").join("log.json").exists();
        // The settings are in `state.json`.
        Ok(RunFolder::open(&out, Value::Null, &[], corpus, resume)?)
    }

    /// Makes the folder. `replace`: whether what a run left in it may be removed, all of it, since a new one may draw fewer
    /// plots.
    ///
    /// # Errors
    /// If the folder holds a run that must stay, or cannot be written.
    pub fn start(&self, replace: bool) -> Result<()> {
        if self.path("state.json").exists() {
            let folder = self.folder.display();
            let (what, go_on) = match self.state() {
                Ok(state) if state.phase == Phase::Finished => ("a finished run", ""),
                Ok(_) => ("an unfinished run", "--resume to go on with it, "),
                Err(error) if !replace => return Err(error),
                Err(_) => ("", ""),
            };
            ensure!(
                replace,
                "{folder} holds {what}: give {go_on}--force to replace it, or another folder with --out"
            );
            for name in WRITTEN {
                self.remove(name)?;
            }
        }
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make the folder {}", self.folder.display()))
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
        let damaged = || {
            format!(
                "{} is damaged: remove the folder and start again without --resume",
                path.display()
            )
        };
        let json: Value = serde_json::from_str(&text).with_context(damaged)?;
        let version = json.get("version").and_then(Value::as_u64).with_context(damaged)?;
        ensure!(
            version == u64::from(VERSION),
            "{} was written by another version of this program (layout {version}, this one knows {VERSION}): \
             choose another folder with --out, or remove this one",
            path.display()
        );
        serde_json::from_value(json).with_context(damaged)
    }

    /// Writes the state, in one piece or not at all.
    pub fn write_state(&self, state: &State) -> Result<()> {
        self.write("state.json", &serde_json::to_vec_pretty(state)?)
    }

    /// Writes a file in one piece or not at all.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(name);
        replace_file(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
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

    #[test]
    fn a_run_is_replaced_only_if_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let mut state = State::new(Config::default(), 0);
        store.write_state(&state).unwrap();
        assert!(store.start(false).unwrap_err().to_string().contains("give --resume"));
        state.phase = Phase::Finished;
        store.write_state(&state).unwrap();
        store.run(Phase::Sparse, 0).unwrap();
        fs::create_dir(store.path("patterns")).unwrap();
        for name in ["report.md", "churn.svg", "patterns/layer-0-up.svg", "notes.txt"] {
            fs::write(store.path(name), "before").unwrap();
        }
        assert!(store.start(false).unwrap_err().to_string().contains("give --force"));
        assert!(store.path("report.md").exists());
        store.start(true).unwrap();
        assert!(store.state().is_err());
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.txt"], "what others put there stays");
    }

    #[test]
    fn another_layout_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        // As the first version wrote it, with the logs of both runs in it.
        store.write("state.json", br#"{"version": 1, "dense": {"steps": 0}}"#).unwrap();
        assert!(store.state().unwrap_err().to_string().contains("layout 1"));
    }
}
