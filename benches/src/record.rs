//! The format of a record file: written by `blast-bench run`, read by the other commands.
//!
//! A file is JSON lines: one [`Line::Machine`] first, then one [`Line::Result`] per problem as it was timed, then one
//! [`Line::Peak`] per measured limit. Readers accept results and limits in any order; an interrupted run has no
//! limits. Files of several machines may be read together.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::element::Element;

/// Version of the format below; a file of another version is refused.
pub const VERSION: u32 = 1;

/// One line of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// Where and how the lines that follow were measured.
    Machine(Machine),
    /// A limit of the device, measured in the same run.
    Peak(Peak),
    /// One problem, sparse and dense.
    Result(Measured),
}

/// Where and how a run was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// [`VERSION`].
    pub version: u32,
    /// Name of the processor or GPU.
    pub device: String,
    /// Driver and its version; empty on a CPU.
    pub driver: String,
    /// Burn's backend: `flex`, `ndarray`, `wgpu`, `cuda`, ...
    pub backend: String,
    /// Instruction sets found at run time, as `avx512f`, `avx2`, `neon`; empty on a GPU.
    pub simd: Vec<String>,
    /// Threads the CPU kernels may use.
    pub threads: usize,
    /// Commit of this repository, with `-dirty` if it was changed; empty if unknown.
    pub commit: String,
    /// Cargo features of the benchmark that change what is compared, as `x86-v4`.
    pub features: Vec<String>,
    /// Day of the run, `YYYY-MM-DD`, UTC; empty if unknown.
    pub date: String,
    pub command: String,
    /// The clock that the times were read from.
    pub clock: Clock,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// The host's clock, read after the device has finished.
    Wall,
    /// The device's own time stamps, without the host's work before and after.
    Device,
}

/// A limit of the device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// What was measured.
    pub limit: Limit,
    /// FLOP/s or bytes/s.
    pub rate: f64,
}

/// Limits measured beside the problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// FLOP/s of the best dense f32 product of Burn on this device.
    DenseF32,
    /// Bytes/s of reading an array larger than the caches.
    Read,
}

/// What is timed.
#[derive(
    ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// `y = x · w`.
    #[value(name = "fwd")]
    Forward,
    /// `dx = dy · wᵀ`.
    #[value(name = "dx")]
    InputGradient,
    /// `dw = xᵀ · dy` at the kept blocks.
    #[value(name = "dw")]
    WeightGradient,
    /// `down(silu(gate(x)) · up(x))`.
    ///
    /// `d_input` is the width of the model, `d_output` the width of the hidden layer.
    GatedMlp,
    /// Forward, both gradients and an AdamW step of one layer.
    Step,
}

/// A problem of the catalogue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// Model and layer the size comes from, as `llama-3.2-1b mlp.up`.
    pub model: String,
    /// What is timed.
    pub verb: Verb,
    /// Rows of the input (tokens).
    pub rows: usize,
    /// Contraction size.
    pub d_input: usize,
    /// Output size.
    pub d_output: usize,
    /// Side of a block.
    pub block: usize,
    /// Share of blocks removed.
    pub sparsity: f64,
    /// Storage type.
    pub dtype: Element,
    /// Whether the caches were emptied before each call.
    pub cold: bool,
}

/// Quartiles over rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quartiles {
    /// Lower quartile.
    #[serde(alias = "lower")]
    pub low: f64,
    pub median: f64,
    /// Upper quartile.
    #[serde(alias = "upper")]
    pub high: f64,
}

impl Quartiles {
    /// Quartiles of at least one value.
    ///
    /// # Panics
    /// If `values` is empty.
    pub fn of(values: &[f64]) -> Self {
        let burn_blast_models::Quartiles { lower, median, upper } =
            burn_blast_models::Quartiles::of(values.to_vec());
        Self { low: lower, median, high: upper }
    }
}

/// One problem, sparse and dense, in interleaved rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub problem: Problem,
    /// Rounds timed.
    pub rounds: usize,
    /// Seconds of a call of the block-sparse kernel.
    pub sparse: Quartiles,
    /// Seconds of a call of Burn's dense product on the same device and data type.
    pub dense: Quartiles,
    /// Seconds of a call by `Strategy::Auto`, for verbs that leave it a choice.
    pub auto: Option<Quartiles>,
    /// Path that `Auto` took: `sparse` or `dense`.
    pub auto_path: Option<String>,
    /// Dense seconds over sparse seconds of the same round.
    pub speedup: Quartiles,
    /// Multiplications and additions on kept blocks in one call.
    pub kept_flops: f64,
    /// Multiplications and additions of the dense product.
    pub dense_flops: f64,
    /// Bytes of weight that the sparse call reads: packed values and indices.
    pub weight_bytes: f64,
    /// Largest error divided by its bound, against the f64 oracle before timing; above 1 the run fails.
    pub error: f64,
}

/// The content of one file.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Where and how it was measured.
    pub machine: Machine,
    /// Limits of the device, measured beside the problems.
    pub peaks: Vec<Peak>,
    /// One per problem, in the order of the file.
    pub results: Vec<Measured>,
}

impl Run {
    /// Reads the file of one run.
    ///
    /// # Errors
    /// If the file cannot be opened, does not start with its machine, has another version of the format, or contains a
    /// line that does not match the format. The message names file and line, and what to do.
    pub fn read(path: &Path) -> Result<Self> {
        let file = path.display();
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("{file}: cannot be read; pass a file written by `blast-bench run`")
        })?;
        let mut run: Option<Self> = None;
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let at = format!("{file}:{number}");
            match (parse(line, &at)?, &mut run) {
                (Line::Machine(machine), None) => {
                    run = Some(Self { machine, peaks: Vec::new(), results: Vec::new() })
                }
                (Line::Machine(_), Some(_)) => {
                    bail!("{at}: a second machine; split the file here, one run per file")
                }
                (_, None) => bail!(
                    "{at}: the first line must describe the machine (\"kind\":\"machine\"), and it is missing; \
                     measure again with `blast-bench run`"
                ),
                (Line::Peak(peak), Some(run)) => run.peaks.push(peak),
                (Line::Result(result), Some(run)) => run.results.push(result),
            }
        }
        run.with_context(|| {
            format!("{file}: the file is empty; measure again with `blast-bench run`")
        })
    }
}

/// Parses one line. The version is checked first, since another version may have other fields.
fn parse(line: &str, at: &str) -> Result<Line> {
    let hint = "if the run was interrupted, remove this line; otherwise measure again with `blast-bench run`";
    let value: Value =
        serde_json::from_str(line).with_context(|| format!("{at}: broken JSON; {hint}"))?;
    let version = value.get("version").filter(|_| value["kind"] == "machine");
    if let Some(version) = version.filter(|version| **version != VERSION) {
        let commit =
            value["commit"].as_str().filter(|text| !text.is_empty()).unwrap_or("that wrote it");
        bail!(
            "{at}: version {version} of the format, but this program reads version {VERSION}; measure again, or use \
             the `blast-bench` of commit {commit}"
        );
    }
    serde_json::from_value(value).with_context(|| format!("{at}: not a line of a record; {hint}"))
}
