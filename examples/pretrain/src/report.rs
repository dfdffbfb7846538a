//! Dense, narrow dense and sparse in numbers, plots and files.

use std::fs;

use anyhow::{Context, Result};
use burn::module::Module;
use burn_blast::report::plot::{Series, line_chart, pattern_map};
use burn_blast::report::summary;
use burn_blast_models::Model;
use burn_blast_models::fine_tune::Log;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::say::say;
use crate::store::{Phase, State, Store};
use crate::table;
use crate::timing::{self, Steps, Timing};
use crate::training::Experiment;

/// Bytes of a weight.
const FLOAT_BYTES: usize = size_of::<f32>();

/// Tensors that training keeps per weight: value, gradient and AdamW's two moments.
const TRAINING_COPIES: usize = 4;

/// The same quantity of each run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Runs<T> {
    /// Dense run.
    pub dense: T,
    /// Run of the narrower dense model.
    pub narrow: T,
    /// Sparse run.
    pub sparse: T,
}

impl<T> Runs<T> {
    /// Asks `of` for each run.
    pub fn of(of: impl Fn(Phase) -> T) -> Self {
        Self { dense: of(Phase::Dense), narrow: of(Phase::Narrow), sparse: of(Phase::Sparse) }
    }

    /// The value of a run; that of the sparse one for later phases.
    pub fn get(&self, phase: Phase) -> &T {
        match phase {
            Phase::Dense => &self.dense,
            Phase::Narrow => &self.narrow,
            Phase::Sparse | Phase::Report | Phase::Finished => &self.sparse,
        }
    }

    /// Asks `of` for each run.
    pub fn try_of<E>(of: impl Fn(Phase) -> Result<T, E>) -> Result<Self, E> {
        let (dense, narrow) = (of(Phase::Dense)?, of(Phase::Narrow)?);
        Ok(Self { dense, narrow, sparse: of(Phase::Sparse)? })
    }

    /// Applies `f` to each.
    pub fn map<U>(self, f: impl Fn(T) -> U) -> Runs<U> {
        Runs { dense: f(self.dense), narrow: f(self.narrow), sparse: f(self.sparse) }
    }
}

/// Sizes of the narrow dense model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Widths {
    /// Width of the model.
    pub d_model: usize,
    /// Width of its MLPs.
    pub d_ff: usize,
}

/// What the sparse model keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Blocks of the pruned layers.
    pub blocks: usize,
    /// Of these, blocks that cannot change an output: of hidden features and heads that nothing feeds or nothing reads.
    pub wasted: usize,
    /// Hidden features of all MLPs.
    pub features: usize,
    /// Of these, features that something feeds and something reads.
    pub living: usize,
}

impl Kept {
    fn of(sparse: &Model) -> Self {
        let blocks = |model: &Model| {
            summary(model).layers.iter().map(|layer| layer.pattern.nnz()).sum::<usize>()
        };
        let features =
            |model: &Model| model.sizes().iter().map(|sizes| sizes.hidden).sum::<usize>();
        let compact = sparse.clone().compact();
        Self {
            blocks: blocks(sparse),
            wasted: blocks(sparse) - blocks(&compact),
            features: features(sparse),
            living: features(&compact),
        }
    }
}

/// Everything the experiment found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The settings.
    pub config: Config,
    /// Validation loss after the last step, nats per byte.
    pub validation_loss: Runs<f64>,
    /// By how many percent the sparse loss is higher than the dense one.
    pub gap_percent: f64,
    /// By how many percent the sparse loss is higher than the loss of the narrow dense model.
    pub gap_to_narrow_percent: f64,
    /// Sizes of the narrow dense model.
    pub narrow: Widths,
    /// Validation loss of each run when the fastest of them was done, between its evaluations along a straight line. A
    /// run that was not done then had not lowered its learning rate to the end.
    pub loss_at_equal_time: Runs<f64>,
    /// Share of removed blocks over the pruned layers.
    pub sparsity: f64,
    /// What the sparse MLPs keep.
    pub kept: Kept,
    /// Stored weights.
    pub parameters: Runs<usize>,
    /// Bytes of the weights with the block indices.
    pub weight_bytes: Runs<usize>,
    /// Bytes of weights, gradients and AdamW moments of the pruned weights, with the block indices.
    pub pruned_training_bytes: Runs<usize>,
    /// Forward pass of one gated MLP at the rows of a training step.
    pub mlp_forward: Runs<Timing>,
    /// Rows of that pass.
    pub mlp_rows: usize,
    /// Forward, backward and optimizer.
    pub training_step: Runs<Timing>,
    /// The same of the dense model with Burn's dense products, where the runs have others.
    pub dense_step_by_burn: Option<Timing>,
    /// Time of the training runs in seconds.
    pub training_seconds: Runs<f64>,
    /// Peak memory of the process in each run, where the system reports it.
    pub peak_bytes: Runs<Option<u64>>,
}

impl Report {
    /// Measures the trained models.
    pub fn measure(experiment: &Experiment, state: &State, logs: &Runs<Log>) -> Result<Self> {
        let config = experiment.config;
        let models = Runs::try_of(|phase| experiment.trained(phase))?;
        say("timing one MLP and whole training steps, the models by turns");
        let device = experiment.device.clone().inner();
        let mlp_forward = timing::mlp_forward(&models, config, &device)?;
        let pruned = summary(&models.sparse);
        let kept = Kept::of(&models.sparse);
        let index_bytes: usize =
            pruned.layers.iter().map(|layer| layer.pattern.index_bytes()).sum();
        let mut models = models;
        let is_pruned =
            |name: &str| pruned.layers.iter().any(|layer| layer.name.contains(&format!("{name}.")));
        let linears = models.narrow.linears_mut().into_iter();
        let weights = linears.filter(|(name, _)| is_pruned(name)).map(|(_, linear)| {
            let [rows, cols] = linear.shape();
            rows * cols * FLOAT_BYTES
        });
        let bytes = Runs {
            dense: pruned.dense_bytes(),
            narrow: weights.sum(),
            sparse: pruned.bytes() - index_bytes,
        };
        let (dense, narrow) = (models.dense.num_params(), models.narrow.num_params());
        drop(models);
        let Steps { runs: training_step, dense_by_burn } = timing::training_step(experiment)?;

        let sparse = dense + bytes.sparse / FLOAT_BYTES - bytes.dense / FLOAT_BYTES;
        let parameters = Runs { dense, narrow, sparse };
        let mut weight_bytes = parameters.map(|count| count * FLOAT_BYTES);
        weight_bytes.sparse += index_bytes;
        let mut pruned_training_bytes = bytes.map(|bytes| bytes * TRAINING_COPIES);
        pruned_training_bytes.sparse += index_bytes;
        let validation_loss = Runs {
            dense: final_validation(&logs.dense)?,
            narrow: final_validation(&logs.narrow)?,
            sparse: final_validation(&logs.sparse)?,
        };
        let narrow_config = config.narrow();
        let gap = |loss: f64| 100.0 * (validation_loss.sparse / loss - 1.0);
        Ok(Self {
            config: config.clone(),
            validation_loss,
            gap_percent: gap(validation_loss.dense),
            gap_to_narrow_percent: gap(validation_loss.narrow),
            narrow: Widths { d_model: narrow_config.d_model, d_ff: narrow_config.d_ff },
            loss_at_equal_time: loss_at_equal_time(logs)?,
            sparsity: pruned.sparsity(),
            kept,
            parameters,
            weight_bytes,
            pruned_training_bytes,
            mlp_forward,
            mlp_rows: config.tokens_per_step(),
            training_step,
            dense_step_by_burn: dense_by_burn,
            training_seconds: Runs {
                dense: logs.dense.seconds,
                narrow: logs.narrow.seconds,
                sparse: logs.sparse.seconds,
            },
            peak_bytes: state.peak_bytes,
        })
    }

    /// Writes `report.json`, `report.md`, the plots, and the ledger of the sparse run.
    pub fn write(&self, experiment: &Experiment, logs: &Runs<Log>) -> Result<()> {
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

/// The validation loss of each run after as many seconds as the fastest took in all.
fn loss_at_equal_time(logs: &Runs<Log>) -> Result<Runs<f64>> {
    let all = [&logs.dense, &logs.narrow, &logs.sparse];
    let seconds = all.map(|log| log.seconds).into_iter().fold(f64::INFINITY, f64::min);
    let at = |log: &Log| match log.seconds > seconds {
        true => loss_at(&log.validation, log.steps as f64 * seconds / log.seconds),
        false => final_validation(log),
    };
    Ok(Runs { dense: at(&logs.dense)?, narrow: at(&logs.narrow)?, sparse: at(&logs.sparse)? })
}

/// The loss at a step between two evaluations; before the first one, the first.
fn loss_at(validation: &[(usize, f64)], step: f64) -> Result<f64> {
    let after = validation.iter().position(|&(at, _)| at as f64 >= step);
    match after.context("a run was not evaluated at its end")? {
        0 => Ok(validation[0].1),
        after => {
            let ((from, before), (to, next)) = (validation[after - 1], validation[after]);
            Ok(before + (next - before) * (step - from as f64) / (to - from) as f64)
        }
    }
}

/// Losses of the runs, sparsity and churn.
fn plot_curves(store: &Store, logs: &Runs<Log>) -> Result<()> {
    let Runs { dense, narrow, sparse } = logs;
    line_chart(
        &store.path("loss.svg"),
        "Loss: dense, narrow dense and block-sparse",
        "step",
        "nats per byte",
        &[
            Series::over_steps("dense, training", &dense.losses),
            Series::over_steps("narrow, training", &narrow.losses),
            Series::over_steps("sparse, training", &sparse.losses),
            Series::over_steps("dense, validation", &dense.validation),
            Series::over_steps("narrow, validation", &narrow.validation),
            Series::over_steps("sparse, validation", &sparse.validation),
        ],
    )?;
    let over_time = |name: &str, log: &Log| {
        let second = |step: usize| step as f64 * log.seconds / log.steps as f64;
        let points = log.validation.iter().map(|&(step, loss)| (second(step), loss)).collect();
        Series { name: name.to_owned(), points }
    };
    line_chart(
        &store.path("time.svg"),
        "Validation loss over the time of training",
        "seconds",
        "nats per byte",
        &[over_time("dense", dense), over_time("narrow", narrow), over_time("sparse", sparse)],
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
        // `Decoder.model.layers.0.mlp.gate_proj.Sparse` is `layer-0-gate`, `Decoder.lm_head.Sparse` is `head`.
        let parts: Vec<&str> = layer.name.split('.').collect();
        let (file, name) = match parts[..] {
            [_, _, _, index, _, name, _] => {
                let name = name.trim_end_matches("_proj");
                (format!("layer-{index}-{name}"), format!("Layer {index}, {name}"))
            }
            _ => ("head".to_owned(), "Output layer".to_owned()),
        };
        let removed = 100.0 * (1.0 - layer.pattern.density());
        let title = format!("{name}: {removed:.1} % removed");
        pattern_map(&folder.join(format!("{file}.svg")), &title, &layer.pattern)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_lies_on_the_line_between_two_evaluations() {
        let curve = [(10, 3.0), (20, 2.0)];
        for (step, loss) in [(4.0, 3.0), (10.0, 3.0), (12.5, 2.75), (20.0, 2.0)] {
            assert_eq!(loss_at(&curve, step).unwrap(), loss);
        }
        assert!(loss_at(&curve, 21.0).is_err());
    }
}
