//! Dense against sparse in numbers, plots and files.

use std::fs;

use anyhow::{Context, Result};
use burn::module::Module;
use burn_blast::module::BlockSparseLinear;
use burn_blast::report::plot::{Series, line_chart, pattern_map};
use serde::Serialize;

use crate::args::Config;
use crate::checkpoint::{Phase, State};
use crate::model::Llama;
use crate::table;
use crate::timing::{self, Comparison};
use crate::training::Session;

/// Bytes of a weight.
const FLOAT_BYTES: usize = size_of::<f32>();

/// Tensors that training keeps for each weight: value, gradient and AdamW's two moments.
const TRAINING_COPIES: usize = 4;

/// A number of the dense run and the same of the sparse one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Pair<T> {
    /// Dense run.
    pub dense: T,
    /// Sparse run.
    pub sparse: T,
}

/// Everything the experiment found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The settings.
    pub config: Config,
    /// Validation loss after the last step, nats per byte.
    pub validation_loss: Pair<f64>,
    /// By how many percent the sparse loss is higher.
    pub gap_percent: f64,
    /// Share of removed blocks over the pruned layers.
    pub sparsity: f64,
    /// Stored weights.
    pub parameters: Pair<usize>,
    /// Bytes of the weights with the block indices.
    pub weight_bytes: Pair<usize>,
    /// Bytes of weights, gradients and AdamW moments of the pruned layers' MLPs, with the block indices.
    pub mlp_training_bytes: Pair<usize>,
    /// Forward pass of one gated MLP at the rows of a training step.
    pub mlp_forward: Comparison,
    /// Rows of that pass.
    pub mlp_rows: usize,
    /// Forward, backward and optimizer.
    pub training_step: Comparison,
    /// Time of the training runs in seconds.
    pub training_seconds: Pair<f64>,
    /// Peak memory of the process in each run, where the system tells.
    pub peak_bytes: Pair<Option<u64>>,
}

/// What the pruned layers store.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Storage {
    /// Weights of the same layers when dense.
    dense_values: usize,
    /// Weights in the kept blocks.
    values: usize,
    /// Bytes of the block indices.
    index_bytes: usize,
    /// Kept blocks.
    kept: usize,
    /// Blocks of the whole grid.
    blocks: usize,
}

impl Report {
    /// Measures both trained models.
    ///
    /// # Errors
    /// If a checkpoint cannot be read or the device fails.
    pub fn measure(session: &Session, state: &State) -> Result<Self> {
        let config = session.config;
        let dense = session.trainee(Phase::Dense, &state.dense, None)?.model;
        let sparse = session.trainee(Phase::Sparse, &state.sparse, None)?.model;
        println!("timing one MLP and whole training steps, dense and sparse by turns");
        let mlp_forward =
            timing::mlp_forward(&dense, &sparse, config, &session.device.clone().inner())?;
        let storage = storage(&sparse, config);
        let dense_parameters = dense.num_params();
        drop((dense, sparse));
        let training_step = timing::training_step(session, state)?;

        let parameters = Pair {
            dense: dense_parameters,
            sparse: dense_parameters - storage.dense_values + storage.values,
        };
        let evaluated = "a run was not evaluated at its end";
        let validation_loss = Pair {
            dense: state.dense.final_validation().context(evaluated)?,
            sparse: state.sparse.final_validation().context(evaluated)?,
        };
        let training_bytes = TRAINING_COPIES * FLOAT_BYTES;
        Ok(Self {
            config: config.clone(),
            validation_loss,
            gap_percent: 100.0 * (validation_loss.sparse / validation_loss.dense - 1.0),
            sparsity: 1.0 - storage.kept as f64 / storage.blocks as f64,
            parameters,
            weight_bytes: Pair {
                dense: parameters.dense * FLOAT_BYTES,
                sparse: parameters.sparse * FLOAT_BYTES + storage.index_bytes,
            },
            mlp_training_bytes: Pair {
                dense: storage.dense_values * training_bytes,
                sparse: storage.values * training_bytes + storage.index_bytes,
            },
            mlp_forward,
            mlp_rows: config.tokens_per_step(),
            training_step,
            training_seconds: Pair { dense: state.dense.seconds, sparse: state.sparse.seconds },
            peak_bytes: Pair { dense: state.dense.peak_bytes, sparse: state.sparse.peak_bytes },
        })
    }

    /// Writes `report.json`, `report.md` and the plots.
    ///
    /// # Errors
    /// If one of them cannot be written.
    pub fn write(&self, session: &Session, state: &State) -> Result<()> {
        let store = session.store;
        store.write("report.json", &serde_json::to_vec_pretty(self)?)?;
        store.write("report.md", table::markdown(self).as_bytes())?;
        plot_curves(session, state)?;
        let sparse = session.trainee(Phase::Sparse, &state.sparse, None)?.model;
        plot_patterns(session, &sparse)
    }
}

/// Adds up what the pruned MLPs store.
fn storage(sparse: &Llama, config: &Config) -> Storage {
    let mut sum = Storage::default();
    for (_, mlp) in sparse.sparse_mlps() {
        sum.dense_values += 3 * config.d_model * config.d_ff;
        for layer in [&mlp.gate, &mlp.up, &mlp.down] {
            let (pattern, values) = (layer.pattern(), kept_values(layer));
            sum.values += values;
            sum.index_bytes += layer.bytes() - values * FLOAT_BYTES;
            sum.kept += pattern.nnz();
            sum.blocks += pattern.block_rows() * pattern.block_cols();
        }
    }
    sum
}

fn kept_values(layer: &BlockSparseLinear) -> usize {
    layer.pattern().value_count()
}

/// Losses of both runs, sparsity and churn.
fn plot_curves(session: &Session, state: &State) -> Result<()> {
    let store = session.store;
    let series = |name: &str, points: &[(usize, f64)]| Series {
        name: name.to_owned(),
        points: points.iter().map(|(step, value)| (*step as f64, *value)).collect(),
    };
    let (dense, sparse) = (&state.dense, &state.sparse);
    line_chart(
        &store.path("loss.svg"),
        "Loss, dense and block-sparse",
        "step",
        "nats per byte",
        &[
            series("dense, training", &dense.losses),
            series("sparse, training", &sparse.losses),
            series("dense, validation", &dense.validation),
            series("sparse, validation", &sparse.validation),
        ],
    )?;
    if !sparse.sparsity.is_empty() {
        let curve = series("share of blocks removed", &sparse.sparsity);
        line_chart(&store.path("sparsity.svg"), "Sparsity", "step", "share removed", &[curve])?;
    }
    if !sparse.churn.is_empty() {
        let curve = series("share of blocks exchanged", &sparse.churn);
        line_chart(&store.path("churn.svg"), "Churn", "step", "share exchanged", &[curve])?;
    }
    Ok(())
}

/// One map for each pruned weight.
fn plot_patterns(session: &Session, sparse: &Llama) -> Result<()> {
    let folder = session.store.path("patterns");
    fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    for (index, mlp) in sparse.sparse_mlps() {
        for (name, layer) in [("gate", &mlp.gate), ("up", &mlp.up), ("down", &mlp.down)] {
            let title = format!("Layer {index}, {name}: {:.1} % removed", 100.0 * layer.sparsity());
            pattern_map(
                &folder.join(format!("layer-{index}-{name}.svg")),
                &title,
                layer.pattern(),
            )?;
        }
    }
    Ok(())
}
