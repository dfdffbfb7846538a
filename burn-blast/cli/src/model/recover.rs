//! `blast recover`.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::Ordering;

use burn_blast_models::fine_tune::{INTERRUPTED, Signals};
use burn_blast_models::recover::{Recover, Recovery, Report, Step, Tick};
use burn_blast_models::{Blocks, Corpus, Model, ModelFolder};

use super::texts;
use super::train::written as written_as;
use crate::FINE;
use crate::args::RecoverArgs;
use crate::error::Error;
use crate::progress::Progress;
use crate::report::grid;

/// Makes a dense model sparse and brings it back.
pub fn recover(
    args: &RecoverArgs,
    signals: &Signals,
    progress: &Progress,
) -> Result<(String, u8), Error> {
    args.out.check(Some(&args.model))?;
    let dense = ModelFolder::open(&args.model)?;
    let device = args.device.open()?;
    let precision = args.device.precision();
    let mut model = dense.load(&device, precision)?;
    if model.mlp_blocks(0).is_some() {
        return Err(Error::Sparse { path: args.model.clone() });
    }
    let written = written_as(&dense, &args.device, &model)?;
    let sparsity = match args.bytes {
        Some(bytes) => sparsity(model.with_precision(written)?, args.block, bytes)?,
        None => {
            // It is loaded again, step by step.
            drop(model);
            args.sparsity
        }
    };
    let blocks = Blocks::new(args.block).with_sparsity(sparsity);
    blocks.check()?;
    let default = Recover::new(blocks);
    let config = Recover {
        hours: args.hours,
        context: args.context.unwrap_or(default.context),
        reconstruct_steps: args.reconstruct_steps,
        reconstruct_lr: args.reconstruct_lr,
        steps: args.steps,
        lr: args.lr.unwrap_or(default.lr),
        seed: args.seed,
        ..default
    };
    let mut corpora = Vec::new();
    for (at, path) in args.corpus.iter().enumerate() {
        if args.corpus[..at].contains(path) {
            return Err(Error::Twice { path: path.clone() });
        }
        let texts = texts(path, Some(&args.out.output), progress)?;
        let names: Vec<&String> = corpora.iter().map(|(name, _)| name).collect();
        let name = name(path, &names);
        corpora.push((name, Corpus::of(&dense, &texts, config.context)?));
    }
    let recovery = Recovery {
        config: &config,
        dense: &dense,
        texts: &corpora,
        device,
        precision,
        written,
        timing: args.timing.clone(),
        out: &args.out.output,
        replace: args.out.force,
        resume: args.resume,
    };
    let stopped = signals.save_first();
    signals.stop_at_once();
    let now = Cell::new(None);
    let done = recovery.run(&mut |tick| {
        if now.replace(Some(tick.step)) != Some(tick.step) {
            progress.count(said(tick.step), tick.all);
            match tick.step {
                Step::Reconstruct | Step::Distil => drop(signals.save_first()),
                // Nothing of these steps is kept.
                Step::Cut | Step::Measure => signals.stop_at_once(),
            }
        }
        show(tick, progress);
        match stopped.load(Ordering::SeqCst) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    Ok(match done {
        Some(report) => (said_at_end(&report, args), FINE),
        None => ("stopped: --resume resumes it".to_owned(), INTERRUPTED),
    })
}

/// The share of the MLPs that must go for the model to have at most so many bytes, in whole groups of features.
fn sparsity(mut model: Model, block: usize, bytes: f64) -> Result<f64, Error> {
    let dense = model.bytes();
    let mlps: usize = model.mlps_mut(0).iter().map(|(_, linear)| linear.bytes()).sum();
    let least = (dense - mlps) as f64;
    model.pack(&Blocks::new(block))?;
    let packed = model.bytes() as f64;
    let groups: usize = model.sizes().iter().map(|layer| layer.hidden.div_ceil(block)).sum();
    // What is not in blocks has its bytes with none kept as well.
    let pointers = model.mlps_mut(0).into_iter().map(|(_, linear)| {
        let [rows, cols] = linear.shape().map(|side| side.div_ceil(block) + 1);
        4 * (rows + cols)
    });
    let fixed = least + pointers.sum::<usize>() as f64;
    let kept = ((bytes - fixed) / (packed - fixed) * groups as f64).floor();
    if kept < 1.0 || bytes > dense as f64 {
        let [least, all] = [fixed, dense as f64].map(|bytes| format!("{:.1} kB", bytes / 1e3));
        return Err(Error::Size { found: format!("{:.1} kB", bytes / 1e3), least, all });
    }
    Ok(1.0 - kept.min(groups as f64) / groups as f64)
}

/// The name of a text, from its path: the whole of it if there is a text of that name already.
fn name(path: &Path, others: &[&String]) -> String {
    let stem = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    if others.contains(&&stem) { path.display().to_string() } else { stem }
}

fn said(step: Step) -> &'static str {
    match step {
        Step::Cut => "removing",
        Step::Reconstruct => "reconstructing",
        Step::Distil => "distilling",
        Step::Measure => "measuring",
    }
}

fn show(tick: &Tick, progress: &Progress) {
    progress.set(tick.done);
    let Some(training) = tick.training else { return };
    let parts = [
        training.loss.map(|loss| format!("loss {loss:.4}")),
        training.held_out.map(|held_out| format!("held out {held_out:.4}")),
    ];
    let line = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    match training.held_out {
        Some(_) => progress.line(&format!("{} {}: {line}", said(tick.step), tick.done)),
        None if line.is_empty() => {}
        None => progress.message(line),
    }
}

fn said_at_end(report: &Report, args: &RecoverArgs) -> String {
    if args.format.json {
        return serde_json::to_string_pretty(report).expect("names and finite numbers only");
    }
    let mut rows = report.table().into_iter();
    let head = rows.next().unwrap_or_default();
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let mut table = grid(&head);
    rows.for_each(|row| {
        table.add_row(row);
    });
    let out = args.out.output.display();
    format!("{table}\n{out} is written; report.html in it shows this with plots")
}
