//! The report as text: a table on the screen, and `report.md`.

use burn_blast_models::Role;
use comfy_table::{CellAlignment, Table};

use crate::config::Config;
use crate::report::{Kept, Report, Runs, Widths};
use crate::store::Phase;
use crate::timing::Timing;

/// The table shown at the end.
pub fn screen(report: &Report) -> String {
    format!(
        "{}\n{} Sparse loss to its loss: {:+.2} %.\n{}",
        table(report),
        narrow(report),
        report.gap_to_narrow_percent,
        kept(report)
    )
}

fn kept(report: &Report) -> String {
    let Kept { blocks, wasted, features, living } = report.kept;
    format!(
        "Of {blocks} kept blocks {wasted} are wasted: nothing feeds or nothing reads their features. {living} of {features} \
         hidden features live."
    )
}

fn narrow(report: &Report) -> String {
    let Widths { d_model, d_ff } = report.narrow;
    format!(
        "The narrow model is dense, of width {d_model} with MLPs of width {d_ff}: as many parameters as the sparse one."
    )
}

/// The same as Markdown, with the settings and the pictures.
pub fn markdown(report: &Report) -> String {
    let config = &report.config;
    let mut table = table(report);
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    format!(
        "# Dense, narrow dense and block-sparse\n\n\
         {layers} layers, width {d_model}, MLP width {d_ff}, context {context}, batch {batch}, {steps} steps, seed \
         {seed}, backend {backend}. Highest learning rate: {dense_lr} dense, {narrow_lr} narrow, {sparse_lr} sparse, where \
         a block-sparse weight has it divided by its density to the power {exponent}.{products}\nBlocks of {block} × {block}, {sparsity} of the blocks removed in {what}. {narrow} {kept}\n\n{table}\n\n\
         ![Loss](loss.svg)\n\n![Loss over time](time.svg)\n\nSparsity and churn over the steps: `sparsity.svg`, `churn.svg`. \
         Kept blocks of each weight: `patterns/`.\n",
        layers = config.layers,
        d_model = config.d_model,
        d_ff = config.d_ff,
        context = config.context,
        batch = config.batch,
        steps = config.steps,
        seed = config.seed,
        backend = config.backend.name(),
        dense_lr = config.train(Phase::Dense).lr,
        narrow_lr = config.train(Phase::Narrow).lr,
        sparse_lr = config.train(Phase::Sparse).lr,
        exponent = config.blast().lr_exponent,
        products =
            if config.bf16_products { " Factors of products are rounded to bf16." } else { "" },
        block = config.block,
        sparsity = percent(report.sparsity),
        what = what(config),
        narrow = narrow(report),
        kept = kept(report),
    )
}

/// The layers that lose blocks, in words.
fn what(config: &Config) -> String {
    let roles = config.roles();
    let named = |role: Role, name: &str| roles.contains(&role).then(|| name.to_owned());
    let inside = [named(Role::Attention, "attention"), named(Role::Mlp, "the MLPs")];
    let inside = inside.into_iter().flatten().collect::<Vec<_>>().join(" and ");
    let inside = (!inside.is_empty())
        .then(|| format!("{inside} of {} of {} layers", config.sparse_layers(), config.layers));
    let parts = [inside, named(Role::Head, "the output layer")];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", and ")
}

fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_header(["", "dense", "narrow dense", "sparse", "sparse to dense"]);
    table.add_rows(rows(report));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn rows(report: &Report) -> Vec<[String; 5]> {
    let loss = report.validation_loss;
    let seconds = report.training_seconds;
    let bytes =
        |bytes: Option<u64>| bytes.map_or("n/a".to_owned(), |bytes| mebibytes(bytes as usize));
    let removed = Runs { dense: 0.0, narrow: 0.0, sparse: report.sparsity };
    let timed = |name: &str, timing: Runs<Timing>| {
        let medians = timing.map(|timing| timing.median_ms);
        row(name, timing.map(milliseconds), faster(medians))
    };
    let mut rows = vec![
        row(
            "validation loss, nats/byte",
            loss.map(|loss| format!("{loss:.4}")),
            format!("{:+.2} %", gap(loss)),
        ),
        row(
            "the same when the fastest run was done",
            report.loss_at_equal_time.map(|loss| format!("{loss:.4}")),
            format!("{:+.2} %", gap(report.loss_at_equal_time)),
        ),
        row("blocks removed", removed.map(percent), String::new()),
        row(
            "parameters",
            report.parameters.map(|count| count.to_string()),
            share(report.parameters),
        ),
        row("weight bytes", report.weight_bytes.map(mebibytes), share(report.weight_bytes)),
        row(
            "pruned weights + gradients + AdamW",
            report.pruned_training_bytes.map(mebibytes),
            share(report.pruned_training_bytes),
        ),
        timed(&format!("one MLP forward, {} rows", report.mlp_rows), report.mlp_forward),
        timed("training step", report.training_step),
    ];
    if let Some(step) = report.dense_step_by_burn {
        let medians = Runs { dense: step, ..report.training_step }.map(|one| one.median_ms);
        let runs = Runs { dense: milliseconds(step), narrow: String::new(), sparse: String::new() };
        rows.push(row("training step with Burn's dense products", runs, faster(medians)));
    }
    rows.push(row(
        "whole training, pruning included",
        seconds.map(|seconds| format!("{seconds:.0} s")),
        faster(seconds),
    ));
    rows.push(row("peak memory of the process", report.peak_bytes.map(bytes), String::new()));
    rows
}

fn row(name: &str, runs: Runs<String>, relation: String) -> [String; 5] {
    [name.to_owned(), runs.dense, runs.narrow, runs.sparse, relation]
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// By how many percent the sparse loss is higher than the dense one.
fn gap(loss: Runs<f64>) -> f64 {
    100.0 * (loss.sparse / loss.dense - 1.0)
}

fn share(runs: Runs<usize>) -> String {
    percent(runs.sparse as f64 / runs.dense as f64)
}

/// How many times faster sparse is than dense.
fn faster(times: Runs<f64>) -> String {
    format!("{:.2} × as fast", times.dense / times.sparse)
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

    fn report() -> Report {
        let timing =
            |median_ms| Timing { median_ms, lower_quartile_ms: 1.0, upper_quartile_ms: 9.0 };
        let timings = Runs { dense: timing(8.0), narrow: timing(3.0), sparse: timing(2.0) };
        Report {
            config: Config::default(),
            validation_loss: Runs { dense: 2.0, narrow: 2.5, sparse: 2.05 },
            gap_percent: 2.5,
            gap_to_narrow_percent: -18.0,
            narrow: Widths { d_model: 256, d_ff: 250 },
            loss_at_equal_time: Runs { dense: 4.0, narrow: 3.0, sparse: 3.0 },
            sparsity: 0.9,
            kept: Kept { blocks: 40, wasted: 3, features: 128, living: 96 },
            parameters: Runs { dense: 1000, narrow: 250, sparse: 250 },
            weight_bytes: Runs { dense: 4000, narrow: 1000, sparse: 1000 },
            pruned_training_bytes: Runs { dense: 1 << 20, narrow: 1 << 17, sparse: 1 << 17 },
            mlp_forward: timings,
            mlp_rows: 1024,
            training_step: timings,
            dense_step_by_burn: Some(timing(16.0)),
            training_seconds: Runs { dense: 100.0, narrow: 40.0, sparse: 50.0 },
            peak_bytes: Runs { dense: Some(1 << 20), narrow: None, sparse: None },
        }
    }

    #[test]
    fn the_table_says_what_was_gained_and_lost() {
        let text = screen(&report());
        for part in [
            "+2.50 %",
            "-18.00 %",
            "-25.00 %",
            "Of 40 kept blocks 3 are wasted",
            "96 of 128 hidden features live",
            "3.00 ms (1.00 to 9.00)",
            "90.0 %",
            "25.0 %",
            "12.5 %",
            "4.00 × as fast",
            "16.00 ms (1",
            "8.00 × as fast",
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
        assert!(text.contains("the MLPs of 3 of 4 layers"), "{text}");
        let what =
            |roles: &[Role]| what(&Config { sparse: Some(roles.to_vec()), ..Config::default() });
        let all = what(&[Role::Head, Role::Mlp, Role::Attention, Role::Mlp]);
        assert_eq!(all, "attention and the MLPs of 3 of 4 layers, and the output layer");
        assert_eq!(what(&[Role::Head]), "the output layer");
    }
}
