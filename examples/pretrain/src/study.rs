//! Many runs from one plan: every setting with every seed, resumed where they stopped, and a table of them.
//!
//! The folder of a study holds `outcomes.jsonl`, a line per run that is done, `table.md`, and the folder of the run that
//! is not done.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use burn::module::Module;
use burn_blast_checkpoint::atomic::replace_file;
use burn_blast_models::fine_tune::INTERRUPTED;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::corpus::Text;
use crate::plan::{Plan, Run};
use crate::report::final_validation;
use crate::run::open;
use crate::say::say;
use crate::store::{Phase, State, Store};
use crate::training::{Experiment, Outcome};

/// File of what came out.
const OUTCOMES: &str = "outcomes.jsonl";

/// What came out of a run with one seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    name: String,
    seed: u64,
    model: Phase,
    parameters: usize,
    seconds: f64,
    /// Steps and validation losses; the last one is at the end.
    validation: Vec<(usize, f64)>,
    /// Fingerprint of the text.
    corpus: u64,
    config: Config,
}

impl Line {
    fn loss(&self) -> f64 {
        self.validation.last().map_or(f64::NAN, |last| last.1)
    }
}

/// Makes the runs of a plan that are not done, one seed after the other. `stop` is asked after each step.
pub fn study(plan: &Path, out: &Path, stop: &dyn Fn() -> bool) -> Result<ExitCode> {
    let plan = Plan::read(plan)?;
    fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    let mut lines = read_lines(out)?;
    let mut texts: BTreeMap<(Option<PathBuf>, usize), Text> = BTreeMap::new();
    for &seed in &plan.seeds {
        for run in &plan.runs {
            let config = run.config(&plan, seed)?;
            let key = (config.corpus.clone(), config.context);
            if !texts.contains_key(&key) {
                let text = Text::load(config.corpus.as_deref(), config.context)?;
                texts.insert(key.clone(), text);
            }
            if let Some(line) = lines.iter().find(|line| line.name == run.name && line.seed == seed)
            {
                let differs = match (line.config.has_results_of(&config), line.model == run.model) {
                    (true, true) if line.corpus == texts[&key].corpus.fingerprint() => None,
                    (true, true) => Some("another text"),
                    _ => Some("other settings"),
                };
                if let Some(what) = differs {
                    bail!(
                        "{} has a run {} with seed {seed} of {what}: give the run another name",
                        out.join(OUTCOMES).display(),
                        run.name
                    );
                }
                remove(&folder_of(run, seed, out))?;
                continue;
            }
            say(format!("{}, seed {seed}", run.name));
            let Some(line) = make(run, &config, &texts[&key], out, stop)? else {
                say("Stopped. The same command goes on.");
                return Ok(ExitCode::from(INTERRUPTED));
            };
            // Another study may have written to the folder.
            lines = read_lines(out)?;
            lines.push(line);
            write(&plan, &lines, out)?;
            remove(&folder_of(run, seed, out))?;
        }
    }
    say(write(&plan, &lines, out)?);
    Ok(ExitCode::SUCCESS)
}

/// Makes one run, or goes on with it; nothing if it was stopped.
fn make(
    run: &Run,
    config: &Config,
    text: &Text,
    out: &Path,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Line>> {
    let folder = folder_of(run, config.seed, out);
    let store = Store::new(&folder);
    fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let mut state = State::new(config.clone(), text.corpus.fingerprint());
    if store.path("state.json").exists() {
        let before = store.state()?;
        ensure!(
            before.config.has_results_of(config)
                && before.config.backend.is_host() == config.backend.is_host()
                && before.corpus == state.corpus,
            "{} holds a run that is not done, of other settings, another kind of device or another text: remove it",
            folder.display()
        );
    }
    store.write_state(&state)?;
    let device = open(config)?;
    let experiment = Experiment::new(config, &text.corpus, &store, &device);
    if let Outcome::Interrupted(_) = experiment.train(&mut state, run.model, stop)? {
        return Ok(None);
    }
    let log = experiment.folder(run.model)?.log;
    let loss = final_validation(&log)?;
    say(format!("{}, seed {}: {loss:.4} nats/byte", run.name, config.seed));
    let line = Line {
        name: run.name.clone(),
        seed: config.seed,
        model: run.model,
        parameters: experiment.trained(run.model)?.num_params(),
        seconds: log.seconds,
        validation: log.validation,
        corpus: state.corpus,
        config: config.clone(),
    };
    Ok(Some(line))
}

/// Where a run is while it is not done.
fn folder_of(run: &Run, seed: u64, out: &Path) -> PathBuf {
    out.join(format!("{}-{seed}", run.name))
}

/// Removes a folder, if it is there.
fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn read_lines(out: &Path) -> Result<Vec<Line>> {
    let path = out.join(OUTCOMES);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => bail!("cannot read {}: {error}", path.display()),
        Ok(text) => text,
    };
    let lines: Result<_, _> = text.lines().map(serde_json::from_str).collect();
    lines.with_context(|| format!("{} is damaged: remove the broken line", path.display()))
}

/// Writes the outcomes and the table, which it returns.
fn write(plan: &Plan, lines: &[Line], out: &Path) -> Result<String> {
    let lines_of_text: Result<Vec<String>, _> = lines.iter().map(serde_json::to_string).collect();
    let table = table(plan, lines);
    for (name, text) in [(OUTCOMES, lines_of_text?.join("\n") + "\n"), ("table.md", table.clone())]
    {
        let path = out.join(name);
        replace_file(&path, text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(table)
}

/// A row per run, in Markdown: means over the seeds, with the least and the greatest.
fn table(plan: &Plan, lines: &[Line]) -> String {
    let mut text =
        "| run | parameters | validation loss | to its rival, % | ms per step | seeds |\n\
                    |---|---|---|---|---|---|\n"
            .to_owned();
    for run in &plan.runs {
        let of =
            |name: &str| -> Vec<&Line> { lines.iter().filter(|line| line.name == name).collect() };
        let made = of(&run.name);
        let losses: Vec<f64> = made.iter().map(|line| line.loss()).collect();
        let rivals = run.rival.as_deref().map(of).unwrap_or_default();
        let gaps: Vec<f64> = made
            .iter()
            .filter_map(|line| {
                let rival = rivals.iter().find(|rival| rival.seed == line.seed)?;
                Some(100.0 * (line.loss() / rival.loss() - 1.0))
            })
            .collect();
        let times: Vec<f64> =
            made.iter().map(|line| 1e3 * line.seconds / line.config.steps as f64).collect();
        text += &format!(
            "| {} | {} | {} | {} | {} | {} |\n",
            run.name,
            made.first().map_or(String::new(), |line| line.parameters.to_string()),
            spread(&losses, |loss| format!("{loss:.4}")),
            spread(&gaps, |gap| format!("{gap:+.2}")),
            spread(&times, |time| format!("{time:.0}")),
            made.len()
        );
    }
    text
}

/// The mean, and if there are several values the least and the greatest.
fn spread(values: &[f64], format: impl Fn(f64) -> String) -> String {
    let mean = format(values.iter().sum::<f64>() / values.len() as f64);
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match values.len() {
        0 => String::new(),
        1 => mean,
        _ => format!("{mean} ({} to {})", format(least), format(greatest)),
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use std::cell::Cell;

    use serde_json::json;

    use super::*;

    /// A plan of two runs with two seeds, of a second in all.
    fn plan(folder: &Path) -> PathBuf {
        let corpus = folder.join("text");
        fs::write(&corpus, "fn main() { println!(\"hello\"); }\n".repeat(100)).unwrap();
        let plan = json!({
            "settings": {
                "corpus": corpus, "block": 8, "steps": 10, "batch": 2, "context": 16, "d_model": 32,
                "d_ff": 64, "layers": 2, "heads": 2, "interval": 3, "save_every": 4, "sparsity": 0.75,
            },
            "seeds": [3, 4],
            "runs": [
                {"name": "narrow", "model": "narrow"},
                {"name": "start", "model": "sparse", "rival": "narrow", "settings": {"start_sparse": true}},
            ],
        });
        let path = folder.join("plan.json");
        fs::write(&path, plan.to_string()).unwrap();
        path
    }

    #[test]
    fn an_interrupted_study_ends_where_an_uninterrupted_one_does_and_a_finished_run_is_not_made_again()
     {
        let folder = tempfile::tempdir().unwrap();
        let plan = plan(folder.path());
        let outcome = |name: &str| read_lines(&folder.path().join(name)).unwrap();
        study(&plan, &folder.path().join("whole"), &|| false).unwrap();
        // Within the first run, and within the sparse one.
        for asked in [7, 3 + 6] {
            let left = Cell::new(asked);
            let stop = || left.replace(left.get() - 1) == 1;
            let code = study(&plan, &folder.path().join("parts"), &stop).unwrap();
            assert_eq!(code, ExitCode::from(INTERRUPTED));
        }
        study(&plan, &folder.path().join("parts"), &|| false).unwrap();
        let (whole, parts) = (outcome("whole"), outcome("parts"));
        let results = |lines: &[Line]| -> Vec<_> {
            lines
                .iter()
                .map(|line| (line.name.clone(), line.seed, line.validation.clone()))
                .collect()
        };
        assert_eq!(results(&whole).len(), 4);
        assert_eq!(results(&whole), results(&parts));
        study(&plan, &folder.path().join("whole"), &|| panic!("it trains again")).unwrap();
        // What changes no result may change, but not the text.
        let again = |from: &str, to: &str| {
            let text = fs::read_to_string(&plan).unwrap();
            assert!(text.contains(from), "{from} is not in {text}");
            let other = folder.path().join("other.json");
            fs::write(&other, text.replace(from, to)).unwrap();
            study(&other, &folder.path().join("whole"), &|| panic!("it trains again"))
        };
        again("\"save_every\":4", "\"save_every\":5").unwrap();
        let error = again("\"sparsity\":0.75", "\"sparsity\":0.5").unwrap_err().to_string();
        assert!(error.contains("of other settings"), "{error}");
        let corpus = folder.path().join("text");
        let before = fs::read_to_string(&corpus).unwrap();
        fs::write(&corpus, before.replace("hello", "world")).unwrap();
        let error = again("\"seeds\"", "\"seeds\"").unwrap_err().to_string();
        assert!(error.contains("of another text"), "{error}");
        fs::write(&corpus, before).unwrap();
        assert_eq!(outcome("whole"), whole);
        let left: Vec<_> = fs::read_dir(folder.path().join("parts"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn the_table_compares_seed_by_seed() {
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan::read(&plan(folder.path())).unwrap();
        let line = |name: &str, seed, loss| Line {
            name: name.to_owned(),
            seed,
            model: Phase::Narrow,
            parameters: 7,
            seconds: 0.3,
            validation: vec![(5, 9.0), (10, loss)],
            corpus: 0,
            config: plan.runs[0].config(&plan, seed).unwrap(),
        };
        let lines = [
            line("narrow", 3, 2.0),
            line("narrow", 4, 4.0),
            line("start", 4, 3.0),
            line("start", 3, 1.9),
        ];
        let table = table(&plan, &lines);
        assert!(table.contains("| narrow | 7 | 3.0000 (2.0000 to 4.0000) |  | 30"), "{table}");
        assert!(table.contains("| -15.00 (-25.00 to -5.00) |"), "{table}");
    }

    #[test]
    fn a_wrong_plan_is_refused_before_anything_runs() {
        let folder = tempfile::tempdir().unwrap();
        let good = fs::read_to_string(plan(folder.path())).unwrap();
        for (from, to, part) in [
            ("\"rival\":\"narrow\"", "\"rival\":\"wide\"", "which is no run of the plan"),
            ("\"start_sparse\"", "\"start_dense\"", "a setting or value that --help does not list"),
            ("\"name\":\"start\"", "\"name\":\"narrow\"", "two runs are named narrow"),
            ("\"name\":\"start\"", "\"name\":\"a/b\"", "use letters"),
            ("\"model\":\"narrow\"", "\"model\":\"report\"", "give dense, narrow or sparse"),
            ("\"block\":8", "\"block\":9", "8, 16, 32, 64 or 128"),
            ("[3,4]", "[]", "names no seeds"),
        ] {
            assert!(good.contains(from), "{from} is not in {good}");
            let path = folder.path().join("wrong.json");
            fs::write(&path, good.replace(from, to)).unwrap();
            let out = folder.path().join("out");
            let error = study(&path, &out, &|| panic!("it trains")).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(part), "{error}");
            assert!(!out.exists());
        }
    }
}
