//! The plan of a study: runs, their settings and seeds.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::Config;
use crate::store::Phase;

/// What is to be run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Settings of all runs, by the names that a file for `--config` has.
    #[serde(default)]
    settings: Map<String, Value>,
    /// Every run is made with each.
    pub seeds: Vec<u64>,
    /// In the order in which they are made.
    pub runs: Vec<Run>,
}

/// One setting.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Name in the table and of the folder.
    pub name: String,
    /// Which of the three models is trained.
    pub model: Phase,
    /// The run to whose loss this one is compared, seed by seed.
    pub rival: Option<String>,
    /// Settings of this run alone. They win over those of the plan.
    #[serde(default)]
    settings: Map<String, Value>,
}

impl Run {
    /// Its settings with a seed.
    pub fn config(&self, plan: &Plan, seed: u64) -> Result<Config> {
        let mut settings = plan.settings.clone();
        settings.extend(self.settings.clone());
        settings.insert("seed".to_owned(), seed.into());
        let config: Config =
            serde_json::from_value(Value::Object(settings)).with_context(|| {
                format!("the run {} has a setting or value that --help does not list", self.name)
            })?;
        config.validate().with_context(|| format!("the run {}", self.name))?;
        Ok(config)
    }
}

impl Plan {
    /// Reads a plan and checks every run of it.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the plan {}", path.display()))?;
        let plan: Self = serde_json::from_str(&text).with_context(|| {
            format!("{} is not a plan: see examples/pretrain/README.md", path.display())
        })?;
        ensure!(!plan.seeds.is_empty(), "the plan {} names no seeds", path.display());
        for (at, run) in plan.runs.iter().enumerate() {
            let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
            ensure!(
                !run.name.is_empty() && run.name.chars().all(plain),
                "a run is named {:?}: use letters, digits, -, _ and .",
                run.name
            );
            let named = |name: &str| plan.runs.iter().position(|run| run.name == name);
            ensure!(named(&run.name) == Some(at), "two runs are named {}", run.name);
            ensure!(
                matches!(run.model, Phase::Dense | Phase::Narrow | Phase::Sparse),
                "the run {} trains the model {}: give dense, narrow or sparse",
                run.name,
                run.model.name()
            );
            if let Some(rival) = &run.rival {
                ensure!(
                    named(rival).is_some(),
                    "the rival of the run {} is {rival}, which is no run of the plan",
                    run.name
                );
            }
            run.config(&plan, 0)?;
        }
        Ok(plan)
    }
}
