//! The picture of the main job: the table that `pretrain` ends with.

use std::fmt::Write;

use anyhow::{Context, Result};

use super::{PICTURE, Pretrain, Runs, Time, read_json};
use crate::format::{escape, figures, percent, ratio};

/// The report that is drawn.
const REPORT: &str = "2026-11-29-quality/pretrain-90.json";

/// Where the report is from.
const MACHINE: &str = "2 threads of a Xeon (Emerald Rapids), 2026-11-29";

const WIDTH: usize = 820;
const MARGIN: usize = 20;
/// Right ends of the columns of numbers.
const COLUMNS: [usize; 4] = [430, 545, 665, WIDTH - MARGIN];
/// Base line of the first row, and distance of the rows.
const FIRST: usize = 94;
const STEP: usize = 30;

const TEXT: &str = "#e6e6e6";
const QUIET: &str = "#8a93a3";
const ACCENT: &str = "#f0c674";

/// Blocks kept by a weight of the same run.
const PATTERN: &str = "benches/record/2026-11-29-quality/pattern.svg";

/// The picture and the elements that show it.
pub struct Picture {
    pub svg: String,
    /// An `<img>` with the same content as text, and one of a pattern.
    pub images: String,
}

/// Name, value of the dense, the narrow dense and the sparse model, and the comparison of the last with the first.
type Row = [String; 5];

/// The result of the main job.
pub fn result() -> Result<Picture> {
    let reports = read_json(REPORT)?;
    let rows = rows(reports.first().with_context(|| format!("{REPORT} is empty"))?);
    let footer = format!("{MACHINE}: benches/record/{REPORT}");
    let said: Vec<String> = rows
        .iter()
        .map(|[name, dense, narrow, sparse, _]| format!("{name} {dense}, {narrow} and {sparse}"))
        .collect();
    let images = format!(
        "<img src=\"{PICTURE}\" width=\"{WIDTH}\"\n  alt=\"Result of the pretrain example, dense, narrow dense and block-sparse: {}\">\n\n\
         <img src=\"{PATTERN}\" width=\"420\" alt=\"Blocks that one pruned weight keeps\">",
        escape(&said.join("; "))
    );
    Ok(Picture { svg: draw(&rows, &footer), images })
}

fn rows(report: &Pretrain) -> Vec<Row> {
    fn row<T>(name: &str, of: &Runs<T>, show: impl Fn(&T) -> String, comparison: String) -> Row {
        let narrow = of.narrow.as_ref().map_or(String::new(), &show);
        [name.to_owned(), show(&of.dense), narrow, show(&of.sparse), comparison]
    }
    let time = |name: &str, of: &Runs<Time>| {
        let show = |time: &Time| format!("{} ms", figures(time.median_ms));
        let speedup = ratio(of.dense.median_ms / of.sparse.median_ms);
        row(name, of, show, format!("{speedup} as fast"))
    };
    let fraction = |of: &Runs<u64>| percent(of.sparse as f64 / of.dense as f64);
    let mebibytes = |bytes: &u64| format!("{:.2} MiB", *bytes as f64 / f64::from(1 << 20));
    let (parameters, bytes) = (&report.parameters, &report.pruned_training_bytes);
    let removed = Runs { dense: 0.0, narrow: Some(0.0), sparse: report.sparsity };
    vec![
        row(
            "validation loss, nats per byte",
            &report.validation_loss,
            |loss| format!("{loss:.4}"),
            format!("{:+.2} %", report.gap_percent),
        ),
        row("MLP blocks removed", &removed, |&share| percent(share), String::new()),
        row("parameters", parameters, u64::to_string, fraction(parameters)),
        row("pruned MLPs: weights, gradients, AdamW", bytes, mebibytes, fraction(bytes)),
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
    let header = [
        (QUIET, "dense"),
        (QUIET, "narrow dense"),
        (QUIET, "block-sparse"),
        (ACCENT, "sparse to dense"),
    ];
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
        for ((x, color), text) in COLUMNS.into_iter().zip([TEXT, TEXT, TEXT, ACCENT]).zip(values) {
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
