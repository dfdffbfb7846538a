//! Times dense and sparse work side by side.

use std::time::Instant;

use anyhow::Result;
use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use burn_blast_models::fine_tune::Trainee;
use burn_blast_models::{Model, Quartiles};
use serde::Serialize;

use crate::args::Config;
use crate::report::Pair;
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

impl Pair<Timing> {
    /// How many times faster sparse is.
    pub fn speedup(&self) -> f64 {
        self.dense.median_ms / self.sparse.median_ms
    }
}

/// Times the first layer's MLP, forward only, with the number of rows of a training step.
pub fn mlp_forward(
    dense: &Model,
    sparse: &Model,
    config: &Config,
    device: &Device,
) -> Result<Pair<Timing>> {
    let (dense, sparse) = (dense.valid(), sparse.valid());
    let shape = [config.batch, config.context, config.d_model];
    let input = Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), device);
    let forward = |model: &Model| finish(device, model.mlp(0, input.clone()));
    interleave(MLP_ROUNDS, || forward(&dense), || forward(&sparse))
}

/// Times whole training steps of the trained models: forward, backward and optimizer.
pub fn training_step(experiment: &Experiment) -> Result<Pair<Timing>> {
    let trainee = |phase| experiment.trainee(phase, &experiment.folder(phase)?).map(Some);
    let (mut dense, mut sparse) = (trainee(Phase::Dense)?, trainee(Phase::Sparse)?);
    let session = experiment.session();
    let step = |slot: &mut Option<Trainee>| {
        let trainee = slot.take().expect("each step puts the trainee back");
        let (trained, loss) = trainee.step(experiment.config.steps, &session);
        *slot = Some(trained);
        finish(&experiment.device, loss)
    };
    interleave(STEP_ROUNDS, || step(&mut dense), || step(&mut sparse))
}

/// Waits until the device is done with everything behind `output`.
fn finish<const D: usize>(device: &Device, output: Tensor<D>) -> Result<()> {
    device
        .sync()
        .map_err(|error| anyhow::anyhow!("the device failed while it was timed: {error:?}"))?;
    drop(output);
    Ok(())
}

/// Runs both by turns, so a change of the machine's speed affects both.
fn interleave(
    rounds: usize,
    mut dense: impl FnMut() -> Result<()>,
    mut sparse: impl FnMut() -> Result<()>,
) -> Result<Pair<Timing>> {
    let (mut dense_ms, mut sparse_ms) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP_ROUNDS + rounds {
        let pair = (milliseconds(&mut dense)?, milliseconds(&mut sparse)?);
        if round >= WARM_UP_ROUNDS {
            dense_ms.push(pair.0);
            sparse_ms.push(pair.1);
        }
    }
    Ok(Pair { dense: quartiles(dense_ms), sparse: quartiles(sparse_ms) })
}

fn milliseconds(work: &mut impl FnMut() -> Result<()>) -> Result<f64> {
    let clock = Instant::now();
    work()?;
    Ok(clock.elapsed().as_secs_f64() * 1e3)
}

fn quartiles(milliseconds: Vec<f64>) -> Timing {
    let Quartiles { lower, median, upper } = Quartiles::of(milliseconds);
    Timing { median_ms: median, lower_quartile_ms: lower, upper_quartile_ms: upper }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_run_in_every_round() {
        let (mut dense, mut sparse) = (0, 0);
        let count = |counter: &mut usize| {
            *counter += 1;
            Ok(())
        };
        interleave(5, || count(&mut dense), || count(&mut sparse)).unwrap();
        assert_eq!((dense, sparse), (5 + WARM_UP_ROUNDS, 5 + WARM_UP_ROUNDS));
    }
}
