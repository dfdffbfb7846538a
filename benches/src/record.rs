//! The lines of a run's file, as written by `blast-bench run` and read by `report` and `advise`.
//!
//! A file is JSON lines: one [`Line::Machine`] first, then one [`Line::Result`] per problem as it was timed, then
//! [`Line::Peak`] once per measured limit. Readers take results and limits in any order: older files have the limits
//! first, and a run that was cut short has none. Files of several machines may be read together.

use serde::{Deserialize, Serialize};

/// Version of the form below; a file of another version is refused.
pub const VERSION: u32 = 1;

/// One line of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// Where and by what the lines that follow were measured.
    Machine(Machine),
    /// A limit of the device, measured in the same run.
    Peak(Peak),
    /// One problem, both ways.
    Result(Measured),
}

/// Where and by what a run was made.
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
    /// Day of the run, `YYYY-MM-DD`, UTC.
    pub date: String,
    /// The command line.
    pub command: String,
    /// What the seconds were read from.
    #[serde(default)]
    pub clock: Clock,
}

/// What seconds are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// The host's clock, until the device is done.
    #[default]
    Wall,
    /// The device's own time stamps, without what the host does before and after.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// `y = x · w`.
    Forward,
    /// `dx = dy · wᵀ`.
    InputGradient,
    /// `dw = xᵀ · dy` at the kept blocks.
    WeightGradient,
    /// `down(silu(gate(x)) · up(x))`; `d_input` is the model's width, `d_output` that of the hidden layer.
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
    /// Storage type: `f32`, `f16` or `bf16`.
    pub dtype: String,
    /// Whether the caches were emptied before each call.
    pub cold: bool,
}

/// Quartiles over rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Lower quartile.
    pub low: f64,
    /// Median.
    pub median: f64,
    /// Upper quartile.
    pub high: f64,
}

/// One problem, both ways, in interleaved rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The problem.
    pub problem: Problem,
    /// Rounds timed.
    pub rounds: usize,
    /// Seconds of a call of the block-sparse kernel.
    pub sparse: Spread,
    /// Seconds of a call of Burn's dense product on the same device and data type.
    pub dense: Spread,
    /// Seconds of a call by `Strategy::Auto`, where the verb has a choice.
    pub auto: Option<Spread>,
    /// Path `Auto` took: `sparse` or `dense`.
    pub auto_path: Option<String>,
    /// Dense seconds over sparse seconds of the same round.
    pub speedup: Spread,
    /// Multiplications and additions on kept blocks in one call.
    pub kept_flops: f64,
    /// The same for the dense weight.
    pub dense_flops: f64,
    /// Bytes of weight the sparse call reads: packed values and indices.
    pub weight_bytes: f64,
    /// Largest error over its bound, against the f64 oracle before timing; 1 would be a failure.
    pub error: f64,
}
