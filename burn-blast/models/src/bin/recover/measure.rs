//! Checkpoints side by side: loss on held-out text, bytes, tokens a second.

use anyhow::{Context, Result, ensure};
use burn_blast::report::plot::{Series, line_chart};
use burn_blast_models::{Checkpoint, Model, Precision, Quartiles, Round};
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use example_backend::replace_file;
use serde::Serialize;

use crate::args::MeasureArgs;
use crate::data::Corpus;
use crate::train::evaluate;

/// Rounds that do not count, in which caches fill and kernels are compiled.
const WARM_UP: usize = 1;

/// What was found about one checkpoint.
#[derive(Clone, Debug, Serialize)]
struct Row {
    name: String,
    /// Nats a token on held-out text.
    loss: f64,
    /// By how many percent that is more than the first checkpoint's.
    gap_percent: f64,
    /// Share of the MLP blocks removed.
    mlp_sparsity: f64,
    /// Of all parameters, with indices.
    bytes: usize,
    /// Tokens a second.
    prefill: Quartiles,
    /// Tokens a second.
    decode: Quartiles,
}

struct Contestant {
    name: String,
    model: Model,
    loss: f64,
    prefill: Vec<f64>,
    decode: Vec<f64>,
}

/// Measures, prints a table, and writes files if asked to.
///
/// # Errors
/// If a checkpoint or the corpus cannot be read, or they do not fit each other.
pub fn run(args: &MeasureArgs) -> Result<()> {
    ensure!(
        args.prefill > 0 && args.decode > 0 && args.rounds > 0,
        "--prefill, --decode and --rounds must be at least 1"
    );
    ensure!(
        args.text.batch > 0 && args.text.context > 0,
        "--batch and --context must be at least 1"
    );
    let device = args.backend.open()?;
    let mut all = Vec::new();
    for folder in &args.models {
        let checkpoint = Checkpoint::open(folder)?;
        let length = args.prefill + args.decode;
        ensure!(
            length <= checkpoint.config().context(),
            "--prefill and --decode make {length} tokens, more than the positions of {}",
            folder.display()
        );
        let corpus = Corpus::of(&checkpoint, &args.text.corpus, args.text.context)?;
        let model = checkpoint.load(&device, Precision::F32)?;
        let loss = evaluate(&model, &corpus.held_out(&args.text, &device))?;
        let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
        all.push(Contestant { name, model, loss, prefill: Vec::new(), decode: Vec::new() });
    }
    // Round by round through all of them, so that a slow minute slows each.
    for round in 0..WARM_UP + args.rounds {
        for one in &mut all {
            let seconds = Round::run(&one.model, args.prefill, args.decode)?;
            if round >= WARM_UP {
                one.prefill.push(args.prefill as f64 / seconds.prefill);
                one.decode.push(args.decode as f64 / seconds.decode.iter().sum::<f64>());
            }
        }
    }
    let baseline = all[0].loss;
    let rows: Vec<Row> = all.into_iter().map(|one| one.row(baseline)).collect();
    println!("{}", table(&rows));
    if let Some(path) = &args.out {
        replace_file(path, &lines(&rows)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.svg {
        let title = "Loss against sparsity";
        line_chart(path, title, "% of MLP blocks removed", "% above the first", &curves(&rows))?;
    }
    Ok(())
}

impl Contestant {
    fn row(mut self, baseline: f64) -> Row {
        let (mut removed, mut mlps) = (0.0, 0.0);
        for (_, linear) in self.model.mlps_mut(0) {
            let size = linear.shape().iter().product::<usize>() as f64;
            removed += linear.sparsity() * size;
            mlps += size;
        }
        Row {
            name: self.name,
            loss: self.loss,
            gap_percent: 100.0 * (self.loss / baseline - 1.0),
            mlp_sparsity: removed / mlps,
            bytes: bytes(&mut self.model),
            prefill: Quartiles::of(self.prefill),
            decode: Quartiles::of(self.decode),
        }
    }
}

/// Loss against sparsity, of all but the first, which is zero by definition: one curve for checkpoints whose names
/// differ only in a number at the end.
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

/// Bytes of all parameters, block indices included.
fn bytes(model: &mut Model) -> usize {
    use burn::module::Module;
    let width = model.dtype().size();
    let numbers = model.num_params();
    let packed: usize = model
        .linears_mut()
        .into_iter()
        .filter_map(|(_, linear)| linear.as_sparse())
        .map(|layer| layer.bytes() - layer.pattern().value_count() * width)
        .sum();
    numbers * width + packed
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header([
        "checkpoint",
        "loss",
        "against the first",
        "MLP blocks removed",
        "MB",
        "prefill tokens/s",
        "decode tokens/s",
    ]);
    for row in rows {
        let rate = |rate: Quartiles| {
            format!("{:.0} ({:.0} to {:.0})", rate.median, rate.lower, rate.upper)
        };
        table.add_row([
            row.name.clone(),
            format!("{:.4}", row.loss),
            format!("{:+.2} %", row.gap_percent),
            format!("{:.1} %", 100.0 * row.mlp_sparsity),
            format!("{:.2}", row.bytes as f64 / 1e6),
            rate(row.prefill),
            rate(row.decode),
        ]);
    }
    table
}

/// The rows in JSON, one a line.
fn lines(rows: &[Row]) -> Result<Vec<u8>> {
    let mut lines = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut lines, row)?;
        lines.push(b'\n');
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, mlp_sparsity: f64) -> Row {
        let rate = Quartiles::of(vec![1.0]);
        let (loss, gap_percent) = (1.0, 100.0 * mlp_sparsity);
        Row {
            name: name.to_owned(),
            loss,
            gap_percent,
            mlp_sparsity,
            bytes: 1,
            prefill: rate,
            decode: rate,
        }
    }

    #[test]
    fn names_that_differ_in_their_number_are_one_curve() {
        let rows =
            [row("dense", 0.0), row("tuned-90", 0.9), row("tuned-80", 0.8), row("cut-80", 0.8)];
        let curves = curves(&rows);
        let found: Vec<(&str, Vec<f64>)> = curves
            .iter()
            .map(|curve| (&*curve.name, curve.points.iter().map(|point| point.0).collect()))
            .collect();
        assert_eq!(found, [("tuned", vec![80.0, 90.0]), ("cut", vec![80.0])]);
    }
}
