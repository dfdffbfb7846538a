//! Times the work of the three runs side by side.

use std::time::Instant;

use anyhow::Result;
use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use burn_blast_models::{Model, Quartiles};
use serde::Serialize;

use crate::config::Config;
use crate::report::Runs;
use crate::store::Phase;
use crate::training::Experiment;

/// Rounds before measuring, in which caches fill and kernels are compiled and tuned.
const WARM_UP_ROUNDS: usize = 3;

/// Measured rounds of the MLP's forward pass. Many, since a round is short.
const MLP_ROUNDS: usize = 41;

/// Measured rounds of a whole training step.
const STEP_ROUNDS: usize = 11;

/// Milliseconds over the measured rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Timing {
    /// The middle one.
    pub median_ms: f64,
    /// A quarter was faster.
    pub lower_quartile_ms: f64,
    /// A quarter was slower.
    pub upper_quartile_ms: f64,
}

/// Times the first layer's MLP, forward only, with the number of rows of a training step.
pub fn mlp_forward(models: &Runs<Model>, config: &Config, device: &Device) -> Result<Runs<Timing>> {
    let models = [&models.dense, &models.narrow, &models.sparse].map(Module::valid);
    let inputs = models.each_ref().map(|model| {
        let shape = [config.batch, config.context, model.width()];
        Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), device)
    });
    let forward = |run: usize| finish(device, models[run].mlp(0, inputs[run].clone()));
    let timings = interleave(models.len(), MLP_ROUNDS, forward)?;
    Ok(Runs { dense: timings[0], narrow: timings[1], sparse: timings[2] })
}

/// Whole training steps: forward, backward and optimizer.
pub struct Steps {
    /// Of the runs.
    pub runs: Runs<Timing>,
    /// Of the dense model with Burn's dense products, where the runs have others.
    pub dense_by_burn: Option<Timing>,
}

/// Times training steps of the trained models, and of a fresh dense one with Burn's products.
pub fn training_step(experiment: &Experiment) -> Result<Steps> {
    let trainee = |phase| experiment.trainee(phase, &experiment.folder(phase)?);
    let Runs { dense, narrow, sparse } = Runs::try_of(trainee)?;
    let mut slots = vec![Some(dense), Some(narrow), Some(sparse)];
    if experiment.config.backend.is_host() {
        slots.push(Some(experiment.dense_by_burn()?));
    }
    let phases = [Phase::Dense, Phase::Narrow, Phase::Sparse, Phase::Dense];
    let timings = interleave(slots.len(), STEP_ROUNDS, |run| {
        let trainee = slots[run].take().expect("each step puts the trainee back");
        let session = experiment.session(phases[run]);
        let (trained, loss) = trainee.step(experiment.config.steps, &session);
        slots[run] = Some(trained);
        finish(&experiment.device, loss)
    })?;
    let runs = Runs { dense: timings[0], narrow: timings[1], sparse: timings[2] };
    Ok(Steps { runs, dense_by_burn: timings.get(3).copied() })
}

/// Waits until the device is done with everything behind `output`.
fn finish<const D: usize>(device: &Device, output: Tensor<D>) -> Result<()> {
    device
        .sync()
        .map_err(|error| anyhow::anyhow!("the device failed while it was timed: {error:?}"))?;
    drop(output);
    Ok(())
}

/// Does the work of several runs by turns, so a change of the machine's speed affects all.
fn interleave(
    runs: usize,
    rounds: usize,
    mut work: impl FnMut(usize) -> Result<()>,
) -> Result<Vec<Timing>> {
    let mut milliseconds = vec![Vec::new(); runs];
    for round in 0..WARM_UP_ROUNDS + rounds {
        for (run, milliseconds) in milliseconds.iter_mut().enumerate() {
            let clock = Instant::now();
            work(run)?;
            if round >= WARM_UP_ROUNDS {
                milliseconds.push(clock.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    Ok(milliseconds.into_iter().map(quartiles).collect())
}

fn quartiles(milliseconds: Vec<f64>) -> Timing {
    let Quartiles { lower, median, upper } = Quartiles::of(milliseconds);
    Timing { median_ms: median, lower_quartile_ms: lower, upper_quartile_ms: upper }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_runs_work_in_every_round() {
        let mut counts = [0; 3];
        let count = |run: usize| {
            counts[run] += 1;
            Ok(())
        };
        assert_eq!(interleave(3, 5, count).unwrap().len(), 3);
        assert_eq!(counts, [5 + WARM_UP_ROUNDS; 3]);
    }
}
