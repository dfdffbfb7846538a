//! The whole experiment in order: dense run, sparse run, comparison.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use burn::module::Module;
use burn_blast::io;
use burn_blast_models::Backend;

use crate::args::{Config, Request};
use crate::checkpoint::{Phase, State, Store};
use crate::corpus::Corpus;
use crate::generate::{Prompt, generate};
use crate::report::Report;
use crate::table;
use crate::training::{Outcome, Session};

/// Exit code of a process stopped by Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Text the trained model continues.
const PROMPT: &str = "fn ";

/// Bytes it adds.
const SAMPLE_LENGTH: usize = 300;

/// Spread of the sampling.
const TEMPERATURE: f64 = 0.8;

/// Largest difference between two evaluations of the same weights. Zero on a CPU; a GPU may add in another order.
const SAME_LOSS: f64 = 1e-4;

/// Runs, or goes on with, the experiment. `stop` is asked before each step.
///
/// # Errors
/// If the device, the corpus or a file is not to be had, or the training fails.
pub fn run(request: Request, stop: &dyn Fn() -> bool) -> Result<ExitCode> {
    let Request { config, out, resume } = request;
    let device = config.backend.open()?;
    let corpus = Corpus::load(config.corpus.as_deref(), config.context)?;
    let store = Store::new(&out);
    let mut state = if resume {
        resumed_state(&store, &corpus)?
    } else {
        fresh_state(&store, &config, &corpus)?
    };
    println!(
        "{}: {} bytes to train on, {} to validate on",
        corpus.source,
        corpus.train.len(),
        corpus.valid.len()
    );
    if state.phase == Phase::Finished {
        println!("The run in {} is finished: its report is report.md there.", out.display());
        return Ok(ExitCode::SUCCESS);
    }

    let session = Session::new(&config, &corpus, &store, &device);
    for (phase, next) in [(Phase::Dense, Phase::Sparse), (Phase::Sparse, Phase::Report)] {
        if state.phase != phase {
            continue;
        }
        if session.train(&mut state, phase, stop)? == Outcome::Interrupted {
            println!("{}", how_to_resume(&state, phase, &out));
            return Ok(ExitCode::from(INTERRUPTED));
        }
        state.phase = next;
        store.write_state(&state)?;
    }

    let sample = save_and_reload(&session, &state)?;
    let report = Report::measure(&session, &state)?;
    report.write(&session, &state)?;
    state.phase = Phase::Finished;
    store.write_state(&state)?;
    println!("\n{}", table::screen(&report));
    println!("\nText by the reloaded sparse model:\n{sample}\n");
    println!("Report, plots and the packed model are in {}", out.display());
    Ok(ExitCode::SUCCESS)
}

fn fresh_state(store: &Store, config: &Config, corpus: &Corpus) -> Result<State> {
    store.start()?;
    let state = State::new(config.clone(), corpus.fingerprint());
    store.write_state(&state)?;
    Ok(state)
}

fn resumed_state(store: &Store, corpus: &Corpus) -> Result<State> {
    let state = store.state()?;
    ensure!(
        state.corpus == corpus.fingerprint(),
        "the corpus ({}) is not the one that the run in {} was started with: bring it back, \
         or start another run with another --out",
        corpus.source,
        store.folder().display()
    );
    Ok(state)
}

/// A flag that the first Ctrl-C sets; the second one ends the process at once.
///
/// # Errors
/// If the system does not let the process listen.
pub fn stop_on_ctrl_c() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        eprintln!("\nStopping after this step and saving; Ctrl-C again stops at once.");
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(stop)
}

fn how_to_resume(state: &State, phase: Phase, out: &Path) -> String {
    let backend = state.config.backend;
    // The default build has no other.
    let features = match backend {
        Backend::Flex => String::new(),
        other => format!(" --features {}", other.name()),
    };
    format!(
        "Saved the {} run at step {} of {}. Go on with: cargo run --release -p pretrain{features} -- --resume --out {}",
        phase.name(),
        state.log(phase).steps,
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

/// Writes the packed model, reads it into a fresh one, checks that nothing was lost, and lets that one write.
fn save_and_reload(session: &Session, state: &State) -> Result<String> {
    let path = session.store.path("model.bpk");
    let trained = session.trainee(Phase::Sparse, &state.sparse, None)?.model;
    io::save(&trained, &path)?;
    drop(trained);

    // Another seed, so that no weight can be right by chance.
    let fresh = session.fresh_model(Phase::Sparse, session.config.seed + 1)?;
    let reloaded = io::load(fresh, &path)?;
    let before = state.sparse.final_validation().context("the sparse run was not evaluated")?;
    let after = session.evaluate(&reloaded)?;
    println!(
        "validation loss of the sparse model: {before:.9} when trained, {after:.9} reloaded from model.bpk"
    );
    ensure!(
        (before - after).abs() <= SAME_LOSS,
        "the model read back from {} is not the one that was saved: please report this",
        path.display()
    );

    let prompt = Prompt {
        start: PROMPT,
        length: SAMPLE_LENGTH,
        temperature: TEMPERATURE,
        seed: session.config.seed,
    };
    generate(&reloaded.valid(), &prompt, session.config.context, &session.device.clone().inner())
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use super::*;

    /// A run of a second or two on a text of its own.
    fn request(folder: &Path, out: &str) -> Request {
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
        Request { config, out: folder.join(out), resume: false }
    }

    #[test]
    fn the_experiment_writes_its_report_plots_and_model() {
        let folder = tempfile::tempdir().unwrap();
        let request = request(folder.path(), "out");
        let out = request.out.clone();
        run(request, &|| false).unwrap();
        for name in [
            "report.md",
            "report.json",
            "loss.svg",
            "sparsity.svg",
            "churn.svg",
            "model.bpk",
            "patterns/layer-0-up.svg",
        ] {
            assert!(out.join(name).exists(), "no {name}");
        }
        let state = Store::new(&out).state().unwrap();
        assert_eq!(state.phase, Phase::Finished);
        assert_eq!(state.sparse.sparsity.last(), Some(&(20, 0.75)));
        let ledger = fs::read_to_string(out.join("ledger.jsonl")).unwrap();
        // Updates at steps 3, 6, 9 and 14 of three weights.
        assert_eq!(ledger.lines().count(), 4 * 3);
    }

    #[test]
    fn the_command_that_resumes_can_be_pasted() {
        let command = |backend, out: &str| {
            let config = Config { backend, ..Config::default() };
            how_to_resume(&State::new(config, 0), Phase::Dense, Path::new(out))
        };
        let plain = command(Backend::Flex, "runs/one");
        assert!(plain.ends_with("-p pretrain -- --resume --out runs/one"), "{plain}");
        let gpu = command(Backend::Vulkan, "it's mine");
        let end = "-p pretrain --features vulkan -- --resume --out 'it'\\''s mine'";
        assert!(gpu.ends_with(end), "{gpu}");
    }

    #[test]
    fn an_interrupted_run_ends_where_an_uninterrupted_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let whole = request(folder.path(), "whole");
        let store = Store::new(&whole.out);
        run(whole, &|| false).unwrap();
        let whole = store.state().unwrap();

        let parts = request(folder.path(), "parts");
        let store = Store::new(&parts.out);
        let part =
            |resume| Request { config: parts.config.clone(), out: parts.out.clone(), resume };
        // Stops within the dense run, right before an update of the sparse one, and after its last update.
        for (steps, resume) in [(5_usize, false), (15 + 8, true), (9, true)] {
            let left = Cell::new(steps);
            let stop = || left.replace(left.get().saturating_sub(1)) == 0;
            assert_eq!(run(part(resume), &stop).unwrap(), ExitCode::from(INTERRUPTED));
        }
        run(part(true), &|| false).unwrap();
        let parts = store.state().unwrap();
        assert_eq!(parts.dense.validation, whole.dense.validation);
        assert_eq!(parts.sparse.validation, whole.sparse.validation);
        assert_eq!(parts.sparse.sparsity, whole.sparse.sparsity);
        assert_eq!(parts.sparse.churn, whole.sparse.churn);
    }
}
