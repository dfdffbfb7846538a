//! The picture of the main job: the table that `pretrain` ends with.

use std::fmt::Write;

use anyhow::{Context, Result};

use super::tables::QUICK;
use super::{PICTURE, Pair, Pretrain, Time, read_json, record};
use crate::format::{count, escape, figures, percent, ratio};
use crate::record::Run;

/// The report that is drawn.
const REPORT: &str = "2026-11-21-cascade-lake/pretrain-90.json";

const WIDTH: usize = 820;
const MARGIN: usize = 20;
/// Right ends of the columns of numbers.
const COLUMNS: [usize; 3] = [490, 630, WIDTH - MARGIN];
/// Base line of the first row, and distance of the rows.
const FIRST: usize = 94;
const STEP: usize = 30;

const TEXT: &str = "#e6e6e6";
const QUIET: &str = "#8a93a3";
const ACCENT: &str = "#f0c674";

/// Blocks kept by a weight of the same run, repeated on another machine.
const PATTERN: &str = "benches/record/2026-11-28-zen4/pattern.svg";

/// The picture and the elements that show it.
pub struct Picture {
    pub svg: String,
    /// An `<img>` with the same content as text, and one of a pattern.
    pub images: String,
}

/// Name, dense value, sparse value, and the comparison of both.
type Row = [String; 4];

/// The result of the main job.
pub fn result() -> Result<Picture> {
    let reports = read_json(REPORT)?;
    let rows = rows(reports.first().with_context(|| format!("{REPORT} is empty"))?);
    // All runs in one folder are from one machine, but only the runs of the benchmark describe it.
    let machine = Run::read(&record(QUICK))?.machine;
    let footer = format!(
        "{} of an {}, {}: benches/record/{REPORT}",
        count(machine.threads, "thread"),
        machine.device,
        machine.date
    );
    let said: Vec<String> = rows
        .iter()
        .map(|[name, dense, sparse, _]| format!("{name} {dense} and {sparse}"))
        .collect();
    let images = format!(
        "<img src=\"{PICTURE}\" width=\"{WIDTH}\"\n  alt=\"Result of the pretrain example, dense and block-sparse: {}\">\n\n\
         <img src=\"{PATTERN}\" width=\"420\" alt=\"Blocks that one pruned weight keeps\">",
        escape(&said.join("; "))
    );
    Ok(Picture { svg: draw(&rows, &footer), images })
}

fn rows(report: &Pretrain) -> Vec<Row> {
    let pair = |name: &str, values: [String; 2], comparison: String| {
        let [dense, sparse] = values;
        [name.to_owned(), dense, sparse, comparison]
    };
    let time = |name: &str, Pair { dense, sparse }: &Pair<Time>| {
        let text = |time: &Time| format!("{} ms", figures(time.median_ms));
        let speedup = format!("{} as fast", ratio(dense.median_ms / sparse.median_ms));
        pair(name, [text(dense), text(sparse)], speedup)
    };
    let fraction = |Pair { dense, sparse }: &Pair<u64>| percent(*sparse as f64 / *dense as f64);
    let loss = &report.validation_loss;
    let mebibytes = |bytes: u64| format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20));
    let (parameters, bytes) = (&report.parameters, &report.pruned_training_bytes);
    vec![
        pair(
            "validation loss, nats per byte",
            [loss.dense, loss.sparse].map(|loss| format!("{loss:.4}")),
            format!("{:+.2} %", report.gap_percent),
        ),
        pair("MLP blocks removed", [0.0, report.sparsity].map(percent), String::new()),
        pair(
            "parameters",
            [parameters.dense, parameters.sparse].map(|count| count.to_string()),
            fraction(parameters),
        ),
        pair(
            "pruned MLPs: weights, gradients, AdamW",
            [bytes.dense, bytes.sparse].map(mebibytes),
            fraction(bytes),
        ),
        time(&format!("one MLP forward, {} rows", report.mlp_rows), &report.mlp_forward),
        time("training step", &report.training_step),
    ]
}

fn draw(rows: &[Row], footer: &str) -> String {
    let end = FIRST + STEP * rows.len();
    let height = end + 34;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"ui-monospace, Menlo, Consolas, monospace\" font-size=\"14\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" rx=\"8\" fill=\"#15181e\"/>\n\
         <text x=\"{MARGIN}\" y=\"32\" fill=\"#8fd18f\">$ <tspan fill=\"{TEXT}\">cargo run --release -p pretrain</tspan></text>\n"
    );
    let header = [(QUIET, "dense"), (QUIET, "block-sparse"), (ACCENT, "block-sparse to dense")];
    for (x, (color, text)) in COLUMNS.into_iter().zip(header) {
        push_text(&mut svg, (x, FIRST - STEP), "end", color, text);
    }
    let rule = FIRST - 21;
    let _ = writeln!(
        svg,
        "<line x1=\"{MARGIN}\" x2=\"{}\" y1=\"{rule}\" y2=\"{rule}\" stroke=\"#3a404b\"/>",
        WIDTH - MARGIN
    );
    for (index, [name, values @ ..]) in rows.iter().enumerate() {
        let y = FIRST + STEP * index;
        push_text(&mut svg, (MARGIN, y), "start", TEXT, name);
        for ((x, color), text) in COLUMNS.into_iter().zip([TEXT, TEXT, ACCENT]).zip(values) {
            push_text(&mut svg, (x, y), "end", color, text);
        }
    }
    let _ = writeln!(
        svg,
        "<text x=\"{MARGIN}\" y=\"{}\" fill=\"{QUIET}\" font-size=\"12\">{}</text>\n</svg>",
        end + 6,
        escape(footer)
    );
    svg
}

fn push_text(svg: &mut String, (x, y): (usize, usize), anchor: &str, color: &str, text: &str) {
    let text = escape(text);
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{y}\" fill=\"{color}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}
