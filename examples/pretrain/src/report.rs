//! Dense against sparse in numbers, plots and files.

use std::fs;

use anyhow::{Context, Result};
use burn::module::Module;
use burn_blast::report::plot::{Series, line_chart, pattern_map};
use burn_blast::report::summary;
use burn_blast_models::fine_tune::Log;
use serde::{Deserialize, Serialize};

use crate::args::Config;
use crate::store::{Phase, State, Store};
use crate::table;
use crate::timing::{self, Timing};
use crate::training::Experiment;

/// Bytes of a weight.
const FLOAT_BYTES: usize = size_of::<f32>();

/// Tensors that training keeps per weight: value, gradient and AdamW's two moments.
const TRAINING_COPIES: usize = 4;

/// A number of the dense run and the same of the sparse one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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
    pub mlp_forward: Pair<Timing>,
    /// Rows of that pass.
    pub mlp_rows: usize,
    /// Forward, backward and optimizer.
    pub training_step: Pair<Timing>,
    /// Time of the training runs in seconds.
    pub training_seconds: Pair<f64>,
    /// Peak memory of the process in each run, where the system reports it.
    pub peak_bytes: Pair<Option<u64>>,
}

impl Report {
    /// Measures both trained models.
    pub fn measure(experiment: &Experiment, state: &State, logs: &Pair<Log>) -> Result<Self> {
        let config = experiment.config;
        let dense = experiment.trained(Phase::Dense)?;
        let sparse = experiment.trained(Phase::Sparse)?;
        println!("timing one MLP and whole training steps, dense and sparse by turns");
        let mlp_forward =
            timing::mlp_forward(&dense, &sparse, config, &experiment.device.clone().inner())?;
        let pruned = summary(&sparse);
        let index_bytes: usize =
            pruned.layers.iter().map(|layer| layer.pattern.index_bytes()).sum();
        let mlp_bytes = Pair { dense: pruned.dense_bytes(), sparse: pruned.bytes() - index_bytes };
        let parameters = dense.num_params();
        drop((dense, sparse));
        let training_step = timing::training_step(experiment)?;

        let bytes = parameters * FLOAT_BYTES;
        let validation_loss =
            Pair { dense: final_validation(&logs.dense)?, sparse: final_validation(&logs.sparse)? };
        Ok(Self {
            config: config.clone(),
            validation_loss,
            gap_percent: 100.0 * (validation_loss.sparse / validation_loss.dense - 1.0),
            sparsity: pruned.sparsity(),
            parameters: Pair {
                dense: parameters,
                sparse: (bytes - mlp_bytes.dense + mlp_bytes.sparse) / FLOAT_BYTES,
            },
            weight_bytes: Pair { dense: bytes, sparse: bytes - mlp_bytes.dense + pruned.bytes() },
            mlp_training_bytes: Pair {
                dense: mlp_bytes.dense * TRAINING_COPIES,
                sparse: mlp_bytes.sparse * TRAINING_COPIES + index_bytes,
            },
            mlp_forward,
            mlp_rows: config.tokens_per_step(),
            training_step,
            training_seconds: Pair { dense: logs.dense.seconds, sparse: logs.sparse.seconds },
            peak_bytes: state.peak_bytes,
        })
    }

    /// Writes `report.json`, `report.md`, the plots, and the ledger of the sparse run.
    pub fn write(&self, experiment: &Experiment, logs: &Pair<Log>) -> Result<()> {
        let store = experiment.store;
        store.write("report.json", &serde_json::to_vec_pretty(self)?)?;
        store.write("report.md", table::markdown(self).as_bytes())?;
        let ledger = experiment.folder(Phase::Sparse)?.ledger();
        let content =
            fs::read(&ledger).with_context(|| format!("cannot read {}", ledger.display()))?;
        store.write("ledger.jsonl", &content)?;
        plot_curves(store, logs)?;
        plot_patterns(experiment)
    }
}

/// The validation loss after the last step of a run.
pub fn final_validation(log: &Log) -> Result<f64> {
    let last = log.validation.last().context("a run was not evaluated at its end")?;
    Ok(last.1)
}

/// Losses of both runs, sparsity and churn.
fn plot_curves(store: &Store, logs: &Pair<Log>) -> Result<()> {
    let Pair { dense, sparse } = logs;
    line_chart(
        &store.path("loss.svg"),
        "Loss, dense and block-sparse",
        "step",
        "nats per byte",
        &[
            Series::over_steps("dense, training", &dense.losses),
            Series::over_steps("sparse, training", &sparse.losses),
            Series::over_steps("dense, validation", &dense.validation),
            Series::over_steps("sparse, validation", &sparse.validation),
        ],
    )?;
    if !sparse.sparsity.is_empty() {
        let curve = Series::over_steps("share of blocks removed", &sparse.sparsity);
        line_chart(&store.path("sparsity.svg"), "Sparsity", "step", "share removed", &[curve])?;
    }
    if !sparse.churn.is_empty() {
        let curve = Series::over_steps("share of blocks exchanged", &sparse.churn);
        line_chart(&store.path("churn.svg"), "Churn", "step", "share exchanged", &[curve])?;
    }
    Ok(())
}

/// One map per pruned weight.
fn plot_patterns(experiment: &Experiment) -> Result<()> {
    let folder = experiment.store.path("patterns");
    fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    for layer in summary(&experiment.trained(Phase::Sparse)?).layers {
        // `Llama.model.layers.0.mlp.gate_proj.Sparse` is `layer-0-gate`.
        let parts: Vec<&str> = layer.name.split('.').collect();
        let (index, name) = (parts[3], parts[5].trim_end_matches("_proj"));
        let removed = 100.0 * (1.0 - layer.pattern.density());
        let title = format!("Layer {index}, {name}: {removed:.1} % removed");
        pattern_map(&folder.join(format!("layer-{index}-{name}.svg")), &title, &layer.pattern)?;
    }
    Ok(())
}
