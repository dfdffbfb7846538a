//! The whole experiment in order: dense run, narrow dense run, sparse run, comparison.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use burn::module::Module;
use burn::tensor::Device;
use burn_blast::io;
use burn_blast::tuning::{allow_bf16, has_dot_products};
use burn_blast_models::BackendKind;
use burn_blast_models::fine_tune::INTERRUPTED;

use crate::args::Args;
use crate::config::Config;
use crate::corpus::Text;
use crate::report::{Report, Runs};
use crate::say::{say, warn};
use crate::store::{Phase, State, Store};
use crate::training::{Experiment, Outcome};
use crate::{model, table};

/// Largest difference between two evaluations of the same weights. Zero on a CPU; a GPU may add in another order.
const SAME_LOSS: f64 = 1e-4;

/// Runs, or goes on with, the experiment. `stop` is asked before each step.
pub fn run(args: Args, stop: &dyn Fn() -> bool) -> Result<ExitCode> {
    let Args { config, out, resume, force, .. } = args;
    let device = open(&config)?;
    let text = Text::load(config.corpus.as_deref(), config.context)?;
    let store = Store::new(&out);
    let mut state = if resume {
        resumed_state(&store, &text)?
    } else {
        fresh_state(&store, &config, &text, force)?
    };
    say(format!(
        "{}: {} bytes to train on, {} to validate on",
        text.source,
        text.corpus.train.len(),
        text.corpus.valid.len()
    ));
    if state.phase == Phase::Finished {
        say(format!("The run in {} is finished: its report is report.md there.", out.display()));
        return Ok(ExitCode::SUCCESS);
    }

    let experiment = Experiment::new(&config, &text.corpus, &store, &device);
    for (phase, next) in [
        (Phase::Dense, Phase::Narrow),
        (Phase::Narrow, Phase::Sparse),
        (Phase::Sparse, Phase::Report),
    ] {
        if state.phase != phase {
            continue;
        }
        if let Outcome::Interrupted(step) = experiment.train(&mut state, phase, stop)? {
            say(how_to_resume(&state, phase, step, &out));
            return Ok(ExitCode::from(INTERRUPTED));
        }
        state.phase = next;
        store.write_state(&state)?;
    }

    let logs = Runs::try_of(|phase| experiment.folder(phase).map(|folder| folder.log))?;
    let sample = save_and_reload(&experiment)?;
    let report = Report::measure(&experiment, &state, &logs)?;
    report.write(&experiment, &logs)?;
    state.phase = Phase::Finished;
    store.write_state(&state)?;
    say(format!("\n{}", table::screen(&report)));
    say(format!("\nText by the reloaded sparse model:\n{sample}\n"));
    say(format!("Report, plots and the packed model are in {}", out.display()));
    Ok(ExitCode::SUCCESS)
}

/// Opens the device, and has it multiply as asked for.
pub fn open(config: &Config) -> Result<Device> {
    if config.bf16_products && !(config.backend.is_host() && has_dot_products()) {
        warn(
            "--bf16-products changes nothing here: it is for the CPU, and needs AVX512-BF16 of AMD or AMX",
        );
    }
    allow_bf16(config.bf16_products);
    Ok(config.backend.open()?)
}

fn fresh_state(store: &Store, config: &Config, text: &Text, force: bool) -> Result<State> {
    store.start(force)?;
    let state = State::new(config.clone(), text.corpus.fingerprint());
    store.write_state(&state)?;
    Ok(state)
}

fn resumed_state(store: &Store, text: &Text) -> Result<State> {
    let state = store.state()?;
    ensure!(
        state.corpus == text.corpus.fingerprint(),
        "the corpus ({}) is not the one that the run in {} was started with: bring it back, \
         or start another run with another --out",
        text.source,
        store.folder().display()
    );
    Ok(state)
}

fn how_to_resume(state: &State, phase: Phase, step: usize, out: &Path) -> String {
    let backend = state.config.backend;
    // The default build has no other.
    let features = match backend {
        BackendKind::Flex => String::new(),
        other => format!(" --features {}", other.name()),
    };
    format!(
        "Saved the {} run at step {step} of {}. Go on with: cargo run --release -p pretrain{features} -- --resume --out {}",
        phase.name(),
        state.config.steps,
        quoted(&out.to_string_lossy())
    )
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// Writes the packed model, reads it into a fresh one, checks that its validation loss is still the same, and lets it
/// write.
fn save_and_reload(experiment: &Experiment) -> Result<String> {
    let path = experiment.store.path("model.bpk");
    let trained = experiment.trained(Phase::Sparse)?;
    let before = experiment.evaluate(&trained)?;
    io::save(&trained, &path)?;

    // Another seed, so that no weight can be right by chance.
    let fresh = experiment.fresh_model(Phase::Sparse, experiment.config.seed + 1)?;
    let reloaded = io::load(fresh, &path)?;
    let after = experiment.evaluate(&reloaded)?;
    say(format!(
        "validation loss of the sparse model: {before:.9} when trained, {after:.9} reloaded from model.bpk"
    ));
    ensure!(
        (before - after).abs() <= SAME_LOSS,
        "the model read back from {} is not the one that was saved: please report this",
        path.display()
    );
    model::sample(&reloaded.valid(), experiment.config.context, experiment.config.seed)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use burn_blast::prune::Structure;
    use burn_blast_models::Role;

    use super::*;

    /// A run of a second or two on a text of its own.
    fn args(folder: &Path, out: &str) -> Args {
        let corpus = folder.join("text");
        fs::write(&corpus, "fn main() { println!(\"hello\"); }\n".repeat(100)).unwrap();
        let config = Config {
            corpus: Some(corpus),
            block: 8,
            steps: 20,
            batch: 2,
            context: 16,
            d_model: 32,
            d_ff: 64,
            layers: 2,
            heads: 2,
            interval: 3,
            save_every: 8,
            sparsity: 0.75,
            ..Config::default()
        };
        Args {
            job: None,
            config,
            config_file: None,
            out: folder.join(out),
            resume: false,
            force: false,
        }
    }

    #[test]
    fn the_experiment_writes_its_report_plots_and_model() {
        let folder = tempfile::tempdir().unwrap();
        let args = args(folder.path(), "out");
        let out = args.out.clone();
        run(args, &|| false).unwrap();
        for name in [
            "report.md",
            "report.json",
            "loss.svg",
            "time.svg",
            "sparsity.svg",
            "churn.svg",
            "model.bpk",
            "patterns/layer-0-up.svg",
        ] {
            assert!(out.join(name).exists(), "no {name}");
        }
        let store = Store::new(&out);
        let state = store.state().unwrap();
        assert_eq!(state.phase, Phase::Finished);
        let log = store.run(Phase::Sparse, state.corpus).unwrap().log;
        assert_eq!(log.sparsity.last(), Some(&(20, 0.75)));
        let ledger = fs::read_to_string(out.join("ledger.jsonl")).unwrap();
        // Updates at steps 3, 6, 9 and 14 of three weights.
        assert_eq!(ledger.lines().count(), 4 * 3);
    }

    #[test]
    fn a_model_that_starts_sparse_stays_as_sparse_and_its_rival_has_as_many_parameters() {
        let folder = tempfile::tempdir().unwrap();
        let mut args = args(folder.path(), "out");
        args.config = Config {
            start_sparse: true,
            structure: Structure::Coupled,
            interval: 5,
            dense_last: 0,
            ..args.config
        };
        let out = args.out.clone();
        run(args, &|| false).unwrap();
        let store = Store::new(&out);
        let log = store.run(Phase::Sparse, store.state().unwrap().corpus).unwrap().log;
        assert!(log.sparsity.iter().all(|&(_, sparsity)| sparsity == 0.75), "{:?}", log.sparsity);
        let report = fs::read_to_string(out.join("report.json")).unwrap();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        let count = |run: &str| report["parameters"][run].as_f64().unwrap();
        let ratio = count("narrow") / count("sparse");
        assert!((ratio - 1.0).abs() < 0.03, "{ratio}");
        assert!(out.join("patterns/layer-0-q.svg").exists());
    }

    #[test]
    fn attention_and_output_layer_lose_blocks_too_if_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut args = args(folder.path(), "out");
        let sparse = Some(vec![Role::Attention, Role::Mlp, Role::Head]);
        args.config = Config { sparse, dense_last: 0, ..args.config };
        let out = args.out.clone();
        run(args, &|| false).unwrap();
        let report = fs::read_to_string(out.join("report.json")).unwrap();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["sparsity"].as_f64(), Some(0.75));
        let count = |run: &str| report["parameters"][run].as_f64().unwrap();
        let ratio = count("narrow") / count("sparse");
        assert!((ratio - 1.0).abs() < 0.03, "{ratio}");
        for name in ["head", "layer-1-o", "layer-1-down"] {
            assert!(out.join(format!("patterns/{name}.svg")).exists(), "no {name}");
        }
    }

    #[test]
    fn the_command_that_resumes_can_be_pasted() {
        let command = |backend, out: &str| {
            let config = Config { backend, ..Config::default() };
            how_to_resume(&State::new(config, 0), Phase::Dense, 5, Path::new(out))
        };
        let plain = command(BackendKind::Flex, "runs/one");
        assert!(plain.ends_with("-p pretrain -- --resume --out runs/one"), "{plain}");
        let gpu = command(BackendKind::Vulkan, "it's mine");
        let end = "-p pretrain --features vulkan -- --resume --out 'it'\\''s mine'";
        assert!(gpu.ends_with(end), "{gpu}");
    }

    #[test]
    fn an_interrupted_run_ends_where_an_uninterrupted_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let whole = args(folder.path(), "whole");
        let logs = |out: &Path| {
            let store = Store::new(out);
            let corpus = store.state().unwrap().corpus;
            [Phase::Dense, Phase::Narrow, Phase::Sparse]
                .map(|phase| store.run(phase, corpus).unwrap().log)
        };
        let out = whole.out.clone();
        run(whole, &|| false).unwrap();
        let whole = logs(&out);

        let parts = args(folder.path(), "parts");
        let part = |resume| Args { resume, ..parts.clone() };
        // Stops within the dense and the narrow run, right before an update of the sparse one, and after its last
        // update.
        for (asked, resume) in [(5_usize, false), (15 + 8, true), (12 + 8, true), (9, true)] {
            let left = Cell::new(asked);
            let stop = || left.replace(left.get() - 1) == 1;
            assert_eq!(run(part(resume), &stop).unwrap(), ExitCode::from(INTERRUPTED));
        }
        run(part(true), &|| false).unwrap();
        for (parts, whole) in logs(&parts.out).iter().zip(&whole) {
            assert_eq!(parts.validation, whole.validation);
            assert_eq!(parts.sparsity, whole.sparsity);
            assert_eq!(parts.churn, whole.churn);
        }
    }
}
