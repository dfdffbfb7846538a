//! What a recovery cost and what it gave: a table, and a page with plots.

use std::fmt::Write;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn_blast::functions::is_host;
use burn_blast::report::plot::{Series, line_chart};
use serde::Serialize;

use super::plan::Workshop;
use super::{Recover, Recovery, Step};
use crate::corpus::Sequences;
use crate::fine_tune::evaluate;
use crate::{Corpus, Error, Model, ModelFolder, Precision, Quartiles};

/// Files of a page.
const PAGE: &str = "report.html";

/// A model beside the others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The step that made it; none for the dense model.
    pub step: Option<Step>,
    /// Nats per token on the held-out part of each text, in their order.
    pub nats: Vec<f64>,
    /// Share of the MLP blocks removed.
    pub sparsity: f64,
    /// Of all parameters, with indices, in the data type of the files.
    pub bytes: usize,
    /// Tokens per second. Only of the dense model and the last one, since all sparse ones have the same layers.
    pub prefill: Option<Quartiles>,
    /// Likewise.
    pub decode: Option<Quartiles>,
    /// That its step took.
    pub seconds: f64,
    /// That its step was trained on.
    pub tokens: usize,
}

/// All models of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The dense model's [`fingerprint`](ModelFolder::fingerprint).
    pub model: String,
    /// What was asked for.
    pub settings: Recover,
    /// Whether products rounded their factors to bf16.
    pub bf16_products: bool,
    /// Names of the texts.
    pub texts: Vec<String>,
    /// The dense model, then the results of the steps.
    pub rows: Vec<Row>,
    /// Share of the blocks that the MLPs of each layer keep.
    pub kept: Vec<f64>,
}

/// Measures the dense model and the results of the steps.
pub(super) fn measure(
    recovery: &Recovery<'_>,
    workshop: &Workshop,
    steps: &[(Step, PathBuf)],
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Option<Report>, Error> {
    let (mut timed, mut rows, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    let all = steps.len() + 2;
    if progress(0, all).is_break() {
        return Ok(None);
    }
    let folders =
        steps.iter().map(|(step, path)| ModelFolder::open(path).map(|one| (Some(*step), one)));
    for folder in std::iter::once(Ok((None, recovery.dense.clone()))).chain(folders) {
        let (step, folder): (Option<Step>, ModelFolder) = folder?;
        let bytes = {
            let stored = folder.load(&recovery.device, Precision::File)?;
            stored.with_precision(recovery.written)?.bytes()
        };
        let mut model = folder.load(&recovery.device, recovery.precision)?;
        let sparsity = model.mlp_sparsity(0);
        kept = kept_by_layer(&mut model);
        if is_host(&recovery.device) {
            model = model.for_host()?;
        }
        let done = workshop.done().iter().find(|done| Some(done.step) == step);
        rows.push(Row {
            step,
            nats: nats(recovery, &model)?,
            sparsity,
            bytes,
            prefill: None,
            decode: None,
            seconds: done.map_or(0.0, |done| done.seconds),
            tokens: done.map_or(0, |done| done.tokens),
        });
        // No more than two models are in memory at once.
        if rows.len() == 1 || rows.len() == all - 1 {
            timed.push(model);
        }
        if progress(rows.len(), all).is_break() {
            return Ok(None);
        }
    }
    let limit = recovery.dense.config().context();
    let models: Vec<(&Model, usize)> = timed.iter().map(|model| (model, limit)).collect();
    let rounds = recovery.timing.run(&models)?;
    let last = rows.len() - 1;
    for (at, rounds) in [0, last].into_iter().zip(&rounds) {
        let (prefill, decode) = recovery.timing.rates(rounds);
        (rows[at].prefill, rows[at].decode) = (Some(prefill), Some(decode));
    }
    if progress(all, all).is_break() {
        return Ok(None);
    }
    let texts = recovery.texts.iter().map(|(name, _)| name.clone()).collect();
    let settings = recovery.config.clone();
    let model = format!("{:016x}", recovery.dense.fingerprint()?);
    let bf16_products = workshop.bf16_products();
    Ok(Some(Report { model, settings, bf16_products, texts, rows, kept }))
}

/// On the held-out part of each text.
fn nats(recovery: &Recovery<'_>, model: &Model) -> Result<Vec<f64>, Error> {
    let sequences = Sequences { context: recovery.config.context, batch: 4 };
    let score = |corpus: &Corpus| {
        evaluate(model, &corpus.held_out(sequences, Corpus::EVALUATED / 4, &recovery.device))
    };
    recovery.texts.iter().map(|(_, corpus)| score(corpus)).collect()
}

/// Share of the blocks that the MLPs of each layer keep.
fn kept_by_layer(model: &mut Model) -> Vec<f64> {
    let mut shares = vec![Vec::new(); model.layers()];
    for (name, linear) in model.mlps_mut(0) {
        let layer = crate::one_shot::layer_of(&name).expect("a layer of an MLP has a number");
        shares[layer].push(1.0 - linear.sparsity());
    }
    shares.iter().map(|all| all.iter().sum::<f64>() / all.len() as f64).collect()
}

impl Report {
    /// Writes `report.json`, and a page with plots beside it.
    pub(super) fn write(&self, folder: &Path) -> Result<(), Error> {
        let json = folder.join("report.json");
        let text = serde_json::to_vec_pretty(self).expect("names and finite numbers only");
        fs::write(&json, text).map_err(Error::file(&json))?;
        let kept: Vec<(usize, f64)> =
            self.kept.iter().enumerate().map(|(at, share)| (at + 1, 100.0 * share)).collect();
        let kept = [Series::over_steps("kept", &kept)];
        line_chart(&folder.join("kept.svg"), "Kept blocks", "layer", "% of the MLP", &kept)?;
        let page = folder.join(PAGE);
        fs::write(&page, self.page()).map_err(Error::file(&page))
    }

    /// Says what did not come out as asked.
    pub(super) fn warn(&self) {
        let [.., before, last] = self.rows.as_slice() else { return };
        let (found, asked) = (100.0 * last.sparsity, 100.0 * self.settings.blocks.sparsity);
        if (found - asked).abs() > 0.5 {
            log::warn!(
                "{found:.1} % of the MLP blocks are removed instead of {asked:.1} %: groups are removed whole, and each layer \
                 keeps at least 8 % of its own; smaller blocks come closer"
            );
        }
        let sum = |row: &Row| row.nats.iter().sum::<f64>();
        if sum(last) > sum(before) + 0.01 * self.texts.len() as f64 {
            log::warn!(
                "distillation made the model worse, from {:.3} to {:.3} nats on average: use a lower learning rate than {}, or \
                 more time",
                sum(before) / self.texts.len() as f64,
                sum(last) / self.texts.len() as f64,
                self.settings.lr
            );
        }
    }

    /// The table's first row and the others, as text.
    pub fn table(&self) -> Vec<Vec<String>> {
        let mut head: Vec<String> = vec!["model".to_owned()];
        head.extend(self.texts.iter().map(|name| format!("nats, held out of {name}")));
        let rest = [
            "MLP blocks removed",
            "MB",
            "prefill tokens/s",
            "decode tokens/s",
            "minutes",
            "tokens",
        ];
        head.extend(rest.map(str::to_owned));
        let mut table = vec![head];
        for row in &self.rows {
            let mut line = vec![row.step.map_or("dense", Step::name).to_owned()];
            let gap = |(nats, dense): (&f64, &f64)| format!("{nats:.3} ({:+.3})", nats - dense);
            line.extend(row.nats.iter().zip(&self.rows[0].nats).map(gap));
            line.push(format!("{:.1} %", 100.0 * row.sparsity));
            line.push(format!("{:.1}", row.bytes as f64 / 1e6));
            line.extend([row.prefill, row.decode].map(|rate| match rate {
                Some(rate) => {
                    format!("{:.0} ({:.0} to {:.0})", rate.median, rate.lower, rate.upper)
                }
                None => "not timed".to_owned(),
            }));
            line.push(format!("{:.1}", row.seconds / 60.0));
            line.push(row.tokens.to_string());
            table.push(line);
        }
        table
    }

    fn page(&self) -> String {
        let mut page = String::from(
            "<!doctype html><meta charset=\"utf-8\"><title>Recovery</title>\
             <style>body{font-family:sans-serif;margin:2em}td,th{padding:.3em .8em;text-align:right}\
             td:first-child,th:first-child{text-align:left}tr:nth-child(even){background:#f2f2f2}img{max-width:100%}</style>\
             <h1>Recovery</h1><table>",
        );
        for (at, line) in self.table().iter().enumerate() {
            let cell = if at == 0 { "th" } else { "td" };
            page.push_str("<tr>");
            for text in line {
                let _ = write!(page, "<{cell}>{}</{cell}>", escaped(text));
            }
            page.push_str("</tr>");
        }
        let Recover { blocks, context, reconstruct_steps, reconstruct_lr, lr, seed, .. } =
            &self.settings;
        let _ = write!(
            page,
            "</table><p>Asked for: {:.1} % of the MLPs, blocks of {}; sequences of {context} tokens; {reconstruct_steps} steps of \
             reconstruction with a learning rate of {reconstruct_lr}, distillation with {lr}; seed {seed}{}.</p>",
            100.0 * blocks.sparsity,
            blocks.block,
            if self.bf16_products { "; products rounded to bf16" } else { "" },
        );
        page.push_str(
            "<p>Nats per token on held-out text, in brackets the gap to the dense model. Medians and quartiles \
             of tokens per second at batch 1; all sparse models have the same layers, so one is timed.</p><p><img src=\"loss.svg\" alt=\"Loss on held-out text\"></p>\
             <p><img src=\"training.svg\" alt=\"Divergence in distillation\"></p>\
             <p><img src=\"kept.svg\" alt=\"Kept blocks by layer\"></p>\n",
        );
        page
    }
}

/// Text that a page shows as it is.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
