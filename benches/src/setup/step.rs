//! A whole training step of one layer.

use anyhow::{Context, Result};
use burn::module::Module;
use burn::nn::Linear;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Tensor};
use burn_blast::module::BlockSparseLinear;
use burn_blast::tuning::Strategy;
use burn_blast::tuning::cost::Cost;
use burn_blast_kernels::reference::Rounding;

use super::{Call, Case, Input, Weight, bounded, boxed};
use crate::check::Sample;
use crate::record::Problem;

/// Large enough that the check sees one step, small enough that hundreds of steps do not change the timing.
const LEARNING_RATE: f64 = 1e-3;

/// Default of Burn's AdamW.
const WEIGHT_DECAY: f64 = 1e-4;
/// Default of Burn's AdamW.
const EPSILON: f64 = 1e-5;

/// Forward, both gradients and an AdamW step. The loss is the sum of the outputs.
pub fn case(problem: &Problem, device: &Device) -> Result<Case> {
    let device = device.clone().autodiff();
    let weight = Weight::of(problem)?;
    let input = Input::new([problem.rows, problem.d_input], 2, problem);
    let x = input.tensor(&device).require_grad();
    let sparse = weight.layer(&device);
    let auto = sparse.clone().with_strategy(Strategy::Auto);
    let path = auto.path(problem.rows).path;
    let dense = weight.linear(&device);
    let one = weight.work(problem.rows);
    // Three products, but the weight is counted once.
    let work =
        Cost { sparse_flops: 3.0 * one.sparse_flops, dense_flops: 3.0 * one.dense_flops, ..one };
    let (checked, x_check, rows) = (sparse.clone(), x.clone(), problem.rows);
    let rounding = problem.dtype.rounding();
    Ok(Case {
        sparse: call(sparse, x.clone(), BlockSparseLinear::forward),
        auto: Some((call(auto, x.clone(), BlockSparseLinear::forward), path)),
        dense: call(dense, x, Linear::forward),
        work,
        check: Box::new(move || {
            let oracle = Oracle { weight, input, rows, rounding };
            oracle.check(checked, x_check)
        }),
    })
}

/// A call that updates its layer.
fn call<M: Module + Send + 'static>(
    layer: M,
    x: Tensor<2>,
    forward: impl Fn(&M, Tensor<2>) -> Tensor<2> + Send + 'static,
) -> Call {
    let (mut slot, mut optimizer) = (Some(layer), AdamWConfig::new().init());
    Box::new(move || {
        let layer = slot.take().expect("every call puts the layer back");
        let mut grads = forward(&layer, x.clone()).sum().backward();
        let dx = x.grad_remove(&mut grads);
        let grads = GradientsParams::from_grads(grads, &layer);
        slot = Some(optimizer.step(LEARNING_RATE, layer, grads));
        boxed(dx)
    })
}

struct Oracle {
    weight: Weight,
    input: Input,
    rows: usize,
    rounding: Rounding,
}

impl Oracle {
    /// Takes the first step and checks both gradients, then the updated values against AdamW applied to this gradient.
    fn check(&self, layer: BlockSparseLinear, x: Tensor<2>) -> Result<f64> {
        let values = layer.weight.values();
        let mut grads = layer.forward(x.clone()).sum().backward();
        let dx = x.grad_remove(&mut grads).context("the input has no gradient")?;
        let dv = values.grad(&grads).context("the weight has no gradient")?.flatten(1, 2);
        let grads = GradientsParams::from_grads(grads, &layer);
        let stepped = AdamWConfig::new().init().step(LEARNING_RATE, layer, grads);
        let after = stepped.weight.values().inner().flatten(1, 2);
        let worst =
            [self.input_gradient(&dx)?, self.weight_gradient(&dv)?, self.values(&dv, &after)?];
        Ok(worst.into_iter().fold(0.0, f64::max))
    }

    /// The gradient of the sum of the outputs is 1 everywhere.
    fn input_gradient(&self, dx: &Tensor<2>) -> Result<f64> {
        let sample = Sample::of(dx, self.weight.pattern.shape().cols());
        let worst = sample
            .compare(|_, k| bounded(self.rounding, self.weight.row(k).map(|(_, w)| (1.0, w))));
        worst.context("the input gradient is wrong")
    }

    fn weight_gradient(&self, dv: &Tensor<2>) -> Result<f64> {
        let worst = Sample::of(dv, self.rows).compare(|slot, at| {
            let column = self.weight.position(slot, at).map(|(k, _)| k).into_iter();
            let terms =
                column.flat_map(|k| (0..self.rows).map(move |m| (self.input.at(m, k), 1.0)));
            bounded(self.rounding, terms)
        });
        worst.context("the weight gradient is wrong")
    }

    /// In its first step AdamW moves against the gradient by `g / (|g| + ε)`, and decays the weight.
    fn values(&self, dv: &Tensor<2>, after: &Tensor<2>) -> Result<f64> {
        // The same shape and number of terms select the same elements.
        let mut gradients = Sample::of(dv, self.rows).values()?.into_iter();
        let worst = Sample::of(after, self.rows).compare(|slot, at| {
            let g = gradients.next().map_or(f64::NAN, f64::from);
            let w = self.weight.position(slot, at).map_or(0.0, |(k, n)| self.weight.at(k, n));
            let delta = LEARNING_RATE * g / (g.abs() + EPSILON);
            let value = w - LEARNING_RATE * WEIGHT_DECAY * w - delta;
            // About ten roundings, of the update and of the weight.
            (value, 16.0 * self.rounding.output * (w.abs() + delta.abs()) + 1e-30)
        });
        worst.context("the updated weight is wrong")
    }
}
