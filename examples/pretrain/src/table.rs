//! The report as text: a table on the screen, and `report.md`.

use comfy_table::{CellAlignment, Table};

use crate::report::{Pair, Report};
use crate::timing::Timing;

/// The table shown at the end.
pub fn screen(report: &Report) -> String {
    table(report).to_string()
}

/// The same as Markdown, with the settings and the pictures.
pub fn markdown(report: &Report) -> String {
    let config = &report.config;
    let mut table = table(report);
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    format!(
        "# Dense against block-sparse\n\n\
         {layers} layers, width {d_model}, MLP width {d_ff}, context {context}, batch {batch}, {steps} steps, seed \
         {seed}, backend {backend}.\nBlocks of {block} × {block}, {sparsity} of the blocks removed in {pruned} of \
         {layers} MLPs.\n\n{table}\n\n\
         ![Loss](loss.svg)\n\nSparsity and churn over the steps: `sparsity.svg`, `churn.svg`. \
         Kept blocks of each weight: `patterns/`.\n",
        layers = config.layers,
        d_model = config.d_model,
        d_ff = config.d_ff,
        context = config.context,
        batch = config.batch,
        steps = config.steps,
        seed = config.seed,
        backend = config.backend.name(),
        block = config.block,
        sparsity = percent(report.sparsity),
        pruned = config.sparse_layers(),
    )
}

fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_header(["", "dense", "sparse", "sparse to dense"]);
    table.add_rows(rows(report));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn rows(report: &Report) -> [[String; 4]; 9] {
    let (loss, sparsity) = (report.validation_loss, report.sparsity);
    let (parameters, bytes) = (report.parameters, report.weight_bytes);
    let (mlp, step) = (report.mlp_forward, report.training_step);
    let (training_bytes, seconds) = (report.mlp_training_bytes, report.training_seconds);
    let removed = Pair { dense: 0.0, sparse: sparsity };
    let peak = |bytes: Option<u64>| bytes.map_or("n/a".into(), |bytes| mebibytes(bytes as usize));
    let nothing = String::new;
    let gap = format!("{:+.2} %", report.gap_percent);
    let forward = format!("one MLP forward, {} rows", report.mlp_rows);
    let took = faster(seconds.dense / seconds.sparse);
    let adamw = "pruned MLPs: weights + gradients + AdamW";
    [
        row("validation loss, nats/byte", loss.map(|loss| format!("{loss:.4}")), gap),
        row("MLP blocks removed", removed.map(percent), nothing()),
        row("parameters", parameters.map(|count| count.to_string()), share(parameters)),
        row("weight bytes", bytes.map(mebibytes), share(bytes)),
        row(adamw, training_bytes.map(mebibytes), share(training_bytes)),
        row(&forward, mlp.map(milliseconds), faster(mlp.speedup())),
        row("training step", step.map(milliseconds), faster(step.speedup())),
        row("whole training, pruning included", seconds.map(|s| format!("{s:.0} s")), took),
        row("peak memory of the process", report.peak_bytes.map(peak), nothing()),
    ]
}

impl<T> Pair<T> {
    /// Applies `f` to both sides.
    pub fn map<U>(self, f: impl Fn(T) -> U) -> Pair<U> {
        Pair { dense: f(self.dense), sparse: f(self.sparse) }
    }
}

fn row(name: &str, pair: Pair<String>, relation: String) -> [String; 4] {
    [name.to_owned(), pair.dense, pair.sparse, relation]
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn share(pair: Pair<usize>) -> String {
    percent(pair.sparse as f64 / pair.dense as f64)
}

fn faster(speedup: f64) -> String {
    format!("{speedup:.2} × as fast")
}

fn mebibytes(bytes: usize) -> String {
    format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20))
}

fn milliseconds(timing: Timing) -> String {
    format!(
        "{:.2} ms ({:.2} to {:.2})",
        timing.median_ms, timing.lower_quartile_ms, timing.upper_quartile_ms
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Config;

    fn report() -> Report {
        let timing =
            |median_ms| Timing { median_ms, lower_quartile_ms: 1.0, upper_quartile_ms: 9.0 };
        let comparison = Pair { dense: timing(8.0), sparse: timing(2.0) };
        Report {
            config: Config::default(),
            validation_loss: Pair { dense: 2.0, sparse: 2.05 },
            gap_percent: 2.5,
            sparsity: 0.9,
            parameters: Pair { dense: 1000, sparse: 250 },
            weight_bytes: Pair { dense: 4000, sparse: 1000 },
            mlp_training_bytes: Pair { dense: 1 << 20, sparse: 1 << 17 },
            mlp_forward: comparison,
            mlp_rows: 1024,
            training_step: comparison,
            training_seconds: Pair { dense: 100.0, sparse: 50.0 },
            peak_bytes: Pair { dense: Some(1 << 20), sparse: None },
        }
    }

    #[test]
    fn the_table_says_what_was_gained_and_lost() {
        let text = screen(&report());
        for part in [
            "+2.50 %",
            "90.0 %",
            "25.0 %",
            "12.5 %",
            "4.00 × as fast",
            "8.00 ms (1.00 to 9.00)",
            "n/a",
        ] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
    }

    #[test]
    fn the_markdown_holds_a_markdown_table() {
        let text = markdown(&report());
        assert!(text.contains("| validation loss, nats/byte"), "{text}");
        assert!(text.contains("3 of 4 MLPs"), "{text}");
    }
}
