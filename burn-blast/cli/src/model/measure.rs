//! `blast bench`, `measure` and `compact`.

use std::fmt;
use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::Device;
use burn_blast::report::plot::{Series, line_chart};
use burn_blast_checkpoint::check_output;
use burn_blast_models::fine_tune::evaluate;
use burn_blast_models::{
    Corpus, Form, LayerSizes, LinearStorage, Model, ModelFolder, Precision, Quartiles,
};
use comfy_table::Table;
use serde::Serialize;

use super::{open, rate, texts};
use crate::args::{BenchArgs, CompactArgs, MeasureArgs};
use crate::error::Error;
use crate::progress::Progress;
use crate::report::{grid, percent};

/// How fast a model is, at batch 1.
#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    #[serde(flatten)]
    storage: LinearStorage,
    dtype: String,
    /// Whether the factors of products in f32 may be rounded to bf16.
    bf16_products: bool,
    /// Whether features may be rounded to 8-bit integers.
    int8_products: bool,
    /// Tokens of the prompt, and tokens per second.
    prefill: (usize, Quartiles),
    /// Tokens after it, and tokens per second.
    decode: (usize, Quartiles),
}

/// Times a prompt, then single tokens after it.
pub fn bench(args: &BenchArgs) -> Result<BenchReport, Error> {
    let (checkpoint, mut model) = open(&args.model, |_| true)?;
    let timing = &args.timing;
    let rounds = timing.run(&[(&model, checkpoint.config().context())])?.remove(0);
    let decode = rounds.iter().flat_map(|round| &round.decode).map(|seconds| 1.0 / seconds);
    Ok(BenchReport {
        storage: model.storage(),
        dtype: format!("{:?}", model.dtype()),
        bf16_products: args.model.device.bf16_products,
        int8_products: args.model.int8_products,
        decode: (timing.decode, Quartiles::of(decode.collect())),
        prefill: (timing.prefill, timing.rates(&rounds).0),
    })
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let storage = self.storage;
        let integers = storage.integer_bits.map(|bits| format!(" and {bits}-bit integers"));
        let integers = integers.unwrap_or_default();
        writeln!(
            f,
            "{} of {} linear layers block-sparse, {} of their weights removed, {:.1} MiB in {}{integers}{}{}",
            storage.sparse,
            storage.linears,
            percent(storage.sparsity),
            storage.bytes as f64 / f64::from(1 << 20),
            self.dtype,
            if self.bf16_products { ", products in bf16" } else { "" },
            if self.int8_products { ", products in 8-bit integers" } else { "" },
        )?;
        let mut table = grid(&["batch 1", "tokens/s", "ms per token"]);
        for (name, (tokens, seconds)) in [("prefill", self.prefill), ("decode", self.decode)] {
            let ms = format!("{:.2}", 1e3 / seconds.median);
            table.add_row([format!("{name} {tokens}"), rate(seconds), ms]);
        }
        write!(f, "{table}")
    }
}

/// Models side by side.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct MeasureReport(Vec<Row>);

/// What was found about one model.
#[derive(Debug, Clone, Serialize)]
struct Row {
    name: String,
    /// Nats per token on held-out text.
    loss: f64,
    /// Tokens that were scored.
    tokens: usize,
    /// By how many percent that is more than the first model's.
    gap_percent: f64,
    /// Share of the MLP blocks removed.
    mlp_sparsity: f64,
    /// Of all parameters, with indices.
    bytes: usize,
    /// Tokens per second.
    prefill: Quartiles,
    /// Tokens per second.
    decode: Quartiles,
}

/// Measures models, and draws a plot if asked to.
pub fn measure(args: &MeasureArgs, progress: &Progress) -> Result<MeasureReport, Error> {
    let sequences = args.text.sequences;
    sequences.check()?;
    if let Some(path) = &args.svg {
        check_output(None, false, path, args.force)?;
    }
    let device = args.device.open()?;
    let (mut models, mut stored) = (Vec::new(), Vec::new());
    let (mut losses, mut scored, mut limits) = (Vec::new(), Vec::new(), Vec::new());
    let texts = texts(&args.text.corpus, args.svg.as_deref(), progress)?;
    if args.svg.is_some() && args.models.len() < 2 {
        return Err(Error::Unused { option: "--svg", needs: "two models or more" });
    }
    progress.count("evaluating", args.models.len());
    for folder in &args.models {
        let checkpoint = ModelFolder::open(folder)?;
        let corpus = Corpus::of(&checkpoint, &texts, sequences.context)?;
        let mut model = checkpoint.load(&device, args.device.precision())?;
        stored.push((model.mlp_sparsity(0), model.bytes()));
        if args.device.backend.is_host() {
            model = model.for_host()?;
        }
        let held_out = corpus.held_out(sequences, Corpus::EVALUATED, &device);
        scored.push(held_out.iter().map(|batch| batch.targets.dims()[0]).sum());
        losses.push(evaluate(&model, &held_out)?);
        models.push(model);
        limits.push(checkpoint.config().context());
        progress.set(models.len());
    }
    let timing = &args.timing;
    let timed: Vec<(&Model, usize)> = models.iter().zip(limits).collect();
    let rounds = timing.run(&timed)?;
    let mut rows = Vec::new();
    for ((((folder, (mlp_sparsity, bytes)), loss), tokens), rounds) in
        args.models.iter().zip(stored).zip(&losses).zip(scored).zip(rounds)
    {
        let (prefill, decode) = timing.rates(&rounds);
        rows.push(Row {
            name: folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned(),
            loss: *loss,
            tokens,
            gap_percent: 100.0 * (loss / losses[0] - 1.0),
            mlp_sparsity,
            bytes,
            decode,
            prefill,
        });
    }
    if let Some(path) = &args.svg {
        let title = "Loss against sparsity";
        line_chart(path, title, "% of MLP blocks removed", "% above the first", &curves(&rows))
            .map_err(burn_blast_models::Error::from)?;
    }
    Ok(MeasureReport(rows))
}

/// Loss against sparsity without the first model, where it is zero by definition: one curve for names that differ only
/// in a number at the end.
fn curves(rows: &[Row]) -> Vec<Series> {
    let mut curves: Vec<Series> = Vec::new();
    for row in rows.iter().skip(1) {
        let name = row.name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-');
        let point = (100.0 * row.mlp_sparsity, row.gap_percent);
        match curves.iter_mut().find(|curve| curve.name == name) {
            Some(curve) => curve.points.push(point),
            None => curves.push(Series { name: name.to_owned(), points: vec![point] }),
        }
    }
    for curve in &mut curves {
        curve.points.sort_by(|one, other| one.0.total_cmp(&other.0));
    }
    curves
}

impl fmt::Display for MeasureReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = grid(&[
            "model",
            "loss",
            "against the first",
            "MLP blocks removed",
            "MB",
            "prefill tokens/s",
            "decode tokens/s",
        ]);
        for row in &self.0 {
            table.add_row([
                row.name.clone(),
                format!("{:.4}", row.loss),
                format!("{:+.2} %", row.gap_percent),
                percent(row.mlp_sparsity),
                format!("{:.2}", row.bytes as f64 / 1e6),
                rate(row.prefill),
                rate(row.decode),
            ]);
        }
        let scored = self.0.iter().map(|row| row.tokens.to_string());
        let tokens = scored.collect::<std::collections::BTreeSet<_>>();
        let tokens = tokens.into_iter().collect::<Vec<_>>().join(" or ");
        write!(
            f,
            "{table}\nloss: nats per token, over {tokens} held-out tokens; MB: parameters in the type computed in"
        )
    }
}

/// What compaction removes.
#[derive(Debug, Clone, Serialize)]
pub struct CompactReport {
    before: Vec<LayerSizes>,
    after: Vec<LayerSizes>,
    parameters_before: usize,
    parameters_after: usize,
    #[serde(serialize_with = "crate::paths::any")]
    output: Option<PathBuf>,
}

/// Compacts a model, and writes the rest if asked to.
pub fn compact(args: &CompactArgs) -> Result<CompactReport, Error> {
    if let Some(output) = &args.output {
        check_output(Some(&args.model), true, output, args.force)?;
    }
    let checkpoint = ModelFolder::open(&args.model)?;
    let model = checkpoint.load(&Device::flex(), Precision::File)?;
    let (before, parameters_before) = (model.sizes(), model.num_params());
    let model = model.compact();
    if let Some(output) = &args.output {
        let form = if args.dense { Form::Dense } else { Form::Packed };
        checkpoint.save_with(&model, output, form, args.force, |_| Ok(()))?;
    }
    let (after, parameters_after) = (model.sizes(), model.num_params());
    let output = args.output.clone();
    Ok(CompactReport { before, after, parameters_before, parameters_after, output })
}

impl fmt::Display for CompactReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", table(&self.before, &self.after))?;
        let (before, after) = (self.parameters_before, self.parameters_after);
        match before == after {
            true => write!(f, "{after} parameters: nothing is left to compact")?,
            false => write!(f, "{after} parameters, compacted from {before}")?,
        }
        match &self.output {
            Some(output) => write!(f, "\n{} is written", output.display()),
            None => Ok(()),
        }
    }
}

fn table(before: &[LayerSizes], after: &[LayerSizes]) -> Table {
    let mut table = grid(&["layer", "hidden features", "heads", "heads of keys and values"]);
    for (at, (before, after)) in before.iter().zip(after).enumerate() {
        let left = |before, after| match before == after {
            true => format!("{after}"),
            false => format!("{after} of {before}"),
        };
        table.add_row([
            at.to_string(),
            left(before.hidden, after.hidden),
            left(before.heads, after.heads),
            left(before.kv_heads, after.kv_heads),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_in_their_number_are_one_curve() {
        let row = |name: &str, mlp_sparsity: f64| Row {
            name: name.to_owned(),
            loss: 1.0,
            tokens: 1,
            gap_percent: 100.0 * mlp_sparsity,
            mlp_sparsity,
            bytes: 1,
            prefill: Quartiles::of(vec![1.0]),
            decode: Quartiles::of(vec![1.0]),
        };
        let rows =
            [row("dense", 0.0), row("tuned-90", 0.9), row("tuned-80", 0.8), row("cut-80", 0.8)];
        let curves = curves(&rows);
        let found: Vec<(&str, Vec<f64>)> = curves
            .iter()
            .map(|curve| (&*curve.name, curve.points.iter().map(|point| point.0).collect()))
            .collect();
        assert_eq!(found, [("tuned", vec![80.0, 90.0]), ("cut", vec![80.0])]);
    }

    #[test]
    fn the_table_shows_what_was_removed() {
        let before = LayerSizes { hidden: 96, heads: 8, kv_heads: 4 };
        let after = LayerSizes { hidden: 64, heads: 6, kv_heads: 4 };
        let table = table(&[before], &[after]).to_string();
        assert!(table.contains("64 of 96") && table.contains("6 of 8"), "{table}");
        assert!(!table.contains("4 of 4"), "{table}");
    }
}
