//! Tables in Markdown.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Pretrain, read_json, record};
use crate::catalogue::SPARSITY;
use crate::element::Element;
use crate::format::{self, percent, ratio, seconds};
use crate::record::{Measured, Quartiles, Run, Verb};

/// The quick catalogue on one machine.
const QUICK: &str = "2026-11-21-cascade-lake/quick.jsonl";

/// Runs of the same products beside different dense products of Burn.
const BURN: [(&str, &str); 3] = [
    ("Burn on Flex", "2026-11-21-cascade-lake/rows-1024.jsonl"),
    ("Burn on Flex with `x86-v4` (AVX-512)", "2026-11-21-cascade-lake/rows-1024-x86-v4.jsonl"),
    ("Burn on NdArray", "2026-11-21-cascade-lake/rows-1024-ndarray.jsonl"),
];

/// Runs of `benches/peers/cpu_peers.py`.
const PEERS: &str = "2026-11-21-cascade-lake/peers.jsonl";

/// Reports of `pretrain` at several sparsities.
const LOSSES: &str = "2026-11-21-xeon-avx512/pretrain.jsonl";

/// Outcomes of studies of `pretrain`, with the names of their runs, what the rows are called, and the rivals.
const START_SPARSE: (&str, &[StudyRow]) = (
    "2026-11-29-quality/narrow.jsonl",
    &[
        ("narrow-80", "dense, width 120", None),
        ("sparse-80", "sparse, 80 % of the blocks absent", Some("narrow-80")),
        ("narrow-90", "dense, width 88", None),
        ("sparse-90", "sparse, 90 % of the blocks absent", Some("narrow-90")),
    ],
);
const START_DENSE: (&str, &[StudyRow]) = (
    "2026-11-29-quality/default.jsonl",
    &[
        ("dense", "dense", None),
        ("narrow", "narrow: MLPs a third as wide", None),
        ("sparse", "sparse, the default", Some("narrow")),
        ("sparse-before", "sparse, `--lr-exponent 0`", Some("narrow")),
    ],
);
const SEARCH: (&str, &[StudyRow]) = (
    "2026-11-29-quality/search.jsonl",
    &[
        ("narrow", "narrow", None),
        ("default", "sparse: score `frobenius`, growth by gradient", Some("narrow")),
        ("taylor", "score `taylor`", Some("narrow")),
        ("taylor-mean", "score `taylor`, mean over the steps (decay 0.9)", Some("narrow")),
        ("fisher", "score `fisher`", Some("narrow")),
        ("global-fisher", "score `fisher`, global budget", Some("narrow")),
        ("random-growth", "growth by chance", Some("narrow")),
        ("no-growth", "no growth", Some("narrow")),
        ("grace", "growth by gradient, 50 steps of grace", Some("narrow")),
        ("little-exchange", "a tenth exchanged every 40 steps", Some("narrow")),
        ("coupled", "blocks selected together", Some("narrow")),
        ("groups", "whole groups", Some("narrow")),
        ("block-16", "blocks of 16", Some("narrow")),
        ("early-final", "final pattern after 35 % of the steps", Some("narrow")),
    ],
);
const WIDER: (&str, &[StudyRow]) = (
    "2026-11-29-quality/wider-mlp.jsonl",
    &[
        ("narrow-80", "dense, as many parameters as 80 % absent", None),
        ("sparse-80", "80 % absent, blocks of 16", Some("narrow-80")),
        ("wide", "MLPs four times as wide, 93.5 % absent, blocks of 16", Some("narrow-80")),
        ("narrow-95", "dense, as many parameters as 95 % absent", None),
        ("sparse-95", "95 % absent, blocks of 16", Some("narrow-95")),
        ("sparse-95-block-8", "95 % absent, blocks of 8", Some("narrow-95")),
    ],
);
const ROLES: (&str, &[StudyRow]) = (
    "2026-11-30-quality/roles.jsonl",
    &[
        ("dense", "dense", None),
        ("mlp-narrow", "narrow, for MLPs", None),
        ("mlp", "MLPs sparse, the default", Some("mlp-narrow")),
        ("attention-narrow", "narrow, for attention and MLPs", None),
        ("attention", "attention and MLPs sparse", Some("attention-narrow")),
        ("all-narrow", "narrow, for all linear layers", None),
        ("all", "attention, MLPs and output layer sparse", Some("all-narrow")),
    ],
);

/// Name of a run, what its row is called, and its rival.
type StudyRow = (&'static str, &'static str, Option<&'static str>);

/// Fine-tuned checkpoints.
const RECOVER: &str = "2026-11-21-recover/recover.jsonl";
const CONTROL: &str = "2026-11-30-quality/control.jsonl";

/// Rows and state of the caches of the columns of [`products`].
const COLUMNS: [(usize, bool); 3] = [(256, false), (16, false), (1, true)];

/// Columns of [`peers`], in percent.
const PEER_SPARSITY: [u32; 5] = [10, 50, 70, 80, 90];

/// A Markdown table.
fn table(header: &[impl AsRef<str>], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    fn line(cells: &[impl AsRef<str>]) -> String {
        let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
        format!("| {} |\n", cells.join(" | "))
    }
    let rule = format!("|{}\n", "---|".repeat(header.len()));
    let rows: String = rows.into_iter().map(|row| line(&row)).collect();
    line(header) + &rule + &rows
}

/// Machine, date and link of a record, as seen from the root of the repository.
fn source(run: &Run, name: &str) -> String {
    let machine = &run.machine;
    let folder = name.split('/').next().unwrap_or(name);
    format!(
        "{} threads of an {} ({}), {}, [record](benches/record/{folder})",
        machine.threads,
        machine.device,
        machine.simd.join(", "),
        machine.date,
    )
}

/// The result of a problem with a 2048 × 8192 weight, blocks of 64 and f32 values.
fn find(run: &Run, verb: Verb, rows: usize, cold: bool, sparsity: u32) -> Option<&Measured> {
    run.results.iter().find(|result| {
        let problem = &result.problem;
        (problem.verb, problem.rows, problem.cold) == (verb, rows, cold)
            && (problem.d_input, problem.d_output, problem.block) == (2048, 8192, 64)
            && problem.dtype == Element::F32
            && problem.sparsity == f64::from(sparsity) / 100.0
    })
}

/// Time and speed-up in one cell.
fn cell(result: &Measured) -> String {
    format!("{}, {}", seconds(result.sparse.median), ratio(result.speedup.median))
}

/// Forward products at several sparsities, and the other verbs at one.
pub fn products() -> Result<String> {
    let run = Run::read(&record(QUICK))?;
    let header = COLUMNS.map(|(rows, cold)| {
        let noun = format::count(rows, "row");
        if cold { format!("{noun}, cold weights") } else { noun }
    });
    let header = ["blocks removed".to_owned()].into_iter().chain(header).collect::<Vec<_>>();
    let rows = SPARSITY.iter().filter_map(|&sparsity| {
        let find = |(rows, cold)| find(&run, Verb::Forward, rows, cold, sparsity).map(cell);
        let cells = COLUMNS.into_iter().map(find).collect::<Option<Vec<_>>>()?;
        Some([format!("{sparsity} %")].into_iter().chain(cells).collect())
    });
    let forward = table(&header, rows);
    let verbs = [Verb::InputGradient, Verb::WeightGradient, Verb::GatedMlp, Verb::Step];
    let others = verbs.map(|verb| find(&run, verb, 256, false, 90).map(cell));
    let others = others.into_iter().collect::<Option<Vec<_>>>();
    let others = others.with_context(|| format!("{QUICK} has no results of all verbs"))?;
    let others = table(&verbs.map(format::verb), [others]);
    Ok(format!(
        "Forward product of one layer of 2048 × 8192 in blocks of 64, `f32`: median time, and speed-up over Burn's dense\n\
         layer. On {}.\n\n{forward}\nOther operations of this layer, with 90 % of the blocks removed and 256 rows:\n\n\
         {others}",
        source(&run, QUICK),
    ))
}

/// A line of `cpu_peers.py`.
#[derive(Deserialize)]
struct Peer {
    op: String,
    threads: usize,
    m: usize,
    block: usize,
    sparsity: f64,
    peer: String,
    dtype: Element,
    cpu_p25: f64,
}

/// Speed-up over several other products at several sparsities.
pub fn peers() -> Result<String> {
    let mut rows = Vec::new();
    for (name, file) in BURN {
        let run = Run::read(&record(file))?;
        let ratio = |sparsity| {
            find(&run, Verb::Forward, 1024, false, sparsity).map(|result| result.speedup.median)
        };
        rows.push(peer_row(&format!("{name}, dense"), 1024, run.machine.threads, ratio));
    }
    let peers: Vec<Peer> = read_json(PEERS)?;
    let fastest = |prefix: &str, sparsity: u32| {
        let matches = |peer: &&Peer| {
            (peer.op.as_str(), peer.dtype, peer.threads) == ("fwd", Element::F32, 1)
                && (peer.m, peer.block) == (256, 64)
                && (peer.sparsity * 100.0).round() == f64::from(sparsity)
                && peer.peer.starts_with(prefix)
        };
        peers.iter().filter(matches).map(|peer| peer.cpu_p25).min_by(f64::total_cmp)
    };
    for (name, prefix) in
        [("MKL (PyTorch), dense", "torch-dense"), ("libxsmm, block-sparse", "libxsmm")]
    {
        let ratio = |sparsity| Some(fastest(prefix, sparsity)? / fastest("blast", sparsity)?);
        rows.push(peer_row(name, 256, 1, ratio));
    }
    let header = ["compared with".to_owned(), "rows".to_owned(), "threads".to_owned()].into_iter();
    let header: Vec<_> =
        header.chain(PEER_SPARSITY.map(|sparsity| format!("{sparsity} %"))).collect();
    Ok(table(&header, rows))
}

fn peer_row(
    name: &str,
    rows: usize,
    threads: usize,
    speedup: impl Fn(u32) -> Option<f64>,
) -> Vec<String> {
    let ratios = PEER_SPARSITY.map(|sparsity| speedup(sparsity).map_or(String::new(), ratio));
    [name.to_owned(), rows.to_string(), threads.to_string()].into_iter().chain(ratios).collect()
}

/// Validation loss of `pretrain` at several sparsities.
pub fn losses() -> Result<String> {
    let header = ["blocks removed", "dense", "block-sparse", "difference"];
    let reports: Vec<Pretrain> = read_json(LOSSES)?;
    let rows = reports.iter().map(|report| {
        vec![
            percent(report.sparsity),
            format!("{:.4}", report.validation_loss.dense),
            format!("{:.4}", report.validation_loss.sparse),
            format!("{:+.2} %", report.gap_percent),
        ]
    });
    Ok(table(&header, rows))
}

/// A line of a study.
#[derive(Deserialize)]
struct Outcome {
    name: String,
    seed: u64,
    parameters: usize,
    validation: Vec<(usize, f64)>,
}

impl Outcome {
    fn loss(&self) -> Option<f64> {
        Some(self.validation.last()?.1)
    }
}

/// Models that start sparse, beside narrower dense ones.
pub fn start_sparse() -> Result<String> {
    study(START_SPARSE)
}

/// Models pruned from a dense start, beside narrower dense ones.
pub fn start_dense() -> Result<String> {
    study(START_DENSE)
}

/// One setting at a time changed from the default.
pub fn search() -> Result<String> {
    study(SEARCH)
}

/// Other widths and shares that start sparse.
pub fn wider() -> Result<String> {
    study(WIDER)
}

/// Attention and output layer sparse as well.
pub fn roles() -> Result<String> {
    study(ROLES)
}

/// Validation losses over the seeds, and the differences to the rivals, seed by seed.
fn study((file, rows): (&str, &[StudyRow])) -> Result<String> {
    let outcomes: Vec<Outcome> = read_json(file)?;
    let runs = |name: &str| -> Vec<&Outcome> {
        outcomes.iter().filter(|outcome| outcome.name == name).collect()
    };
    let row = |&(name, label, rival): &StudyRow| {
        let made = runs(name);
        let losses = made.iter().filter_map(|run| run.loss()).collect();
        let gap = |run: &&Outcome| {
            let rival = runs(rival?).into_iter().find(|rival| rival.seed == run.seed)?;
            Some(100.0 * (run.loss()? / rival.loss()? - 1.0))
        };
        let gaps = made.iter().filter_map(gap).collect();
        let first = made.first().with_context(|| format!("{file} has no run {name}"))?;
        Ok(vec![
            label.to_owned(),
            first.parameters.to_string(),
            range(losses, |loss| format!("{loss:.4}")),
            range(gaps, |gap| format!("{gap:+.2} %")),
            made.len().to_string(),
        ])
    };
    let rows = rows.iter().map(row).collect::<Result<Vec<_>>>()?;
    Ok(table(&["model", "parameters", "validation loss", "to the narrow one", "seeds"], rows))
}

/// Mean, least and greatest.
fn range(values: Vec<f64>, show: impl Fn(f64) -> String) -> String {
    if values.is_empty() {
        return String::new();
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if values.len() == 1 {
        return show(mean);
    }
    format!("{} ({} to {})", show(mean), show(least), show(greatest))
}

/// A line of `measure`.
#[derive(Deserialize)]
struct Checkpoint {
    name: String,
    loss: f64,
    gap_percent: f64,
    mlp_sparsity: f64,
    bytes: f64,
    prefill: Quartiles,
    decode: Quartiles,
}

/// Median and quartiles of tokens per second.
fn tokens(Quartiles { low, median, high }: &Quartiles) -> String {
    format!("{median:.0} ({low:.0} to {high:.0})")
}

/// A small Llama after one-shot pruning and fine-tuning.
pub fn recover() -> Result<String> {
    measured(RECOVER, method)
}

/// A small Llama beside what it was made from and a narrow one, each trained as long.
pub fn control() -> Result<String> {
    measured(CONTROL, control_name)
}

/// What `measure` wrote.
fn measured(name: &str, show: fn(&str) -> String) -> Result<String> {
    let header = [
        "",
        "blocks removed",
        "loss, nats per byte",
        "against dense",
        "MB",
        "prefill, tokens/s",
        "decode, tokens/s",
    ];
    let checkpoints: Vec<Checkpoint> = read_json(name)?;
    let rows = checkpoints.iter().map(|checkpoint| {
        vec![
            show(&checkpoint.name),
            format!("{:.1} %", 100.0 * checkpoint.mlp_sparsity),
            format!("{:.3}", checkpoint.loss),
            format!("{:+.1} %", checkpoint.gap_percent),
            format!("{:.2}", checkpoint.bytes / 1e6),
            tokens(&checkpoint.prefill),
            tokens(&checkpoint.decode),
        ]
    });
    Ok(table(&header, rows))
}

/// A checkpoint of the control, in words.
fn control_name(name: &str) -> String {
    match name {
        "dense" => "dense",
        "dense-on" => "dense, trained on for as many steps",
        "sparse-90" => "block-sparse, from the dense one, `--teacher`",
        "narrow" => "narrow and dense, from scratch",
        "narrow-on" => "narrow and dense, trained on, `--teacher`",
        other => other,
    }
    .to_owned()
}

fn method(name: &str) -> String {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-');
    match stem {
        "fine-tuned" => "`fine-tune`, 500 steps".to_owned(),
        "teacher" => "`fine-tune --teacher`, 500 steps".to_owned(),
        "long-teacher" => "**`fine-tune --teacher`, 3000 steps**".to_owned(),
        "dense" => "dense".to_owned(),
        score => format!("one-shot, `{score}`"),
    }
}
