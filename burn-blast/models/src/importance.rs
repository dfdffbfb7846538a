//! How much of the loss depends on each hidden feature of the MLPs, from one pass forward and backward.

use burn::module::Module;
use burn::optim::GradientsAccumulator;
use burn::tensor::{DType, Tensor};
use burn_blast::functions::is_host;

use crate::attention::Pass;
use crate::corpus::Batch;
use crate::fine_tune::head::{Terms, score};
use crate::generate::to_host;
use crate::parallel::{at_once, in_threads};
use crate::{Error, Model};

/// `Σ (h · ∂L/∂h)²` over the tokens of a sample, for every hidden feature of every MLP, where *L* is the sum of the losses
/// of the next token: the first-order (Taylor) importance of Molchanov et al. 2019, per token.
///
/// The scores of all layers are in one unit, so that they can be ranked together.
#[derive(Clone, Debug, PartialEq)]
pub struct Importance {
    /// By layer, `[hidden]` each.
    pub hidden: Vec<Vec<f32>>,
}

impl Importance {
    /// Runs a sample through the model and back, one layer at a time: autodiff holds one layer, and of the others the
    /// features between them are held. `progress` is called with the number of batches done, and of all.
    ///
    /// # Errors
    /// If the sample is empty, the loss is infinite or not a number, or the device fails.
    pub fn collect(
        model: &Model,
        sample: &[Batch],
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Self, Error> {
        if sample.is_empty() {
            let what = "importance needs a sample of texts".to_string();
            return Err(Error::TooShort(what));
        }
        let mut model = model.clone();
        if is_host(&model.device()) {
            model = model.for_many_scores()?;
        }
        let mut hidden: Vec<Vec<f64>> = Vec::new();
        progress(0, sample.len());
        let mut done = 0;
        for batches in sample.chunks(at_once(&model.device())) {
            for squares in in_threads(batches, |batch| backward(&model, batch)) {
                add(&mut hidden, squares?);
            }
            done += batches.len();
            progress(done, sample.len());
        }
        if hidden.iter().flatten().any(|sum| !sum.is_finite()) {
            return Err(Error::NotFinite("the gradient of the loss"));
        }
        let single = |sums: Vec<f64>| sums.into_iter().map(|sum| sum as f32).collect();
        Ok(Self { hidden: hidden.into_iter().map(single).collect() })
    }
}

fn add(sums: &mut Vec<Vec<f64>>, squares: Vec<Vec<f32>>) {
    if sums.is_empty() {
        sums.extend(squares.iter().map(|layer| vec![0.0; layer.len()]));
    }
    for (sums, squares) in sums.iter_mut().zip(squares) {
        sums.iter_mut().zip(squares).for_each(|(sum, square)| *sum += f64::from(square));
    }
}

/// The sums of one batch, by layer.
fn backward(model: &Model, batch: &Batch) -> Result<Vec<Vec<f32>>, Error> {
    let mut inputs = Vec::with_capacity(model.layers());
    let mut x = model.embed(batch.inputs.clone());
    for index in 0..model.layers() {
        inputs.push(x.clone());
        x = model.feed(index, model.attend(index, x));
    }
    let tracked = model.clone().train().set_require_grad(false);
    let device = tracked.device();
    let track = |x: Tensor<3>| Tensor::from_inner(x).to_device(&device).require_grad();
    let constant = |x: Tensor<3>| Tensor::from_inner(x).to_device(&device);

    let last = track(x);
    let normed = tracked.family().norm(last.clone());
    let terms = Terms { next_token: 1.0, divergence: 0.0, temperature: 1.0 };
    let targets = batch.targets.clone();
    let tokens = targets.dims()[0] as f64;
    let mut nothing = GradientsAccumulator::new();
    let hidden = normed.clone().inner();
    let scored = score(&tracked, hidden, None, targets, terms, tokens, &mut nothing);
    let mut grads = (normed * constant(scored.gradient)).sum().backward();
    let mut gradient = last.grad_remove(&mut grads).expect("the norm depends on its input");

    let out = tracked.family().mlp_layers().1;
    let mut squares = Vec::with_capacity(inputs.len());
    while let Some(x) = inputs.pop() {
        let (index, x) = (inputs.len(), track(x));
        // The gradient by a zero that is added is the gradient by the features.
        let mut probed = None;
        let mut hook = |name: &str, input: Tensor<3>| {
            if !name.ends_with(out) {
                return input;
            }
            let zero = Tensor::zeros(input.dims(), (&device, input.dtype())).require_grad();
            probed = Some((input.clone().inner(), zero.clone()));
            input + zero
        };
        let mut pass = Pass::new(None, x.dims()[1]);
        let attended = tracked.family().attend(index, x.clone(), &mut pass);
        pass.hook = Some(&mut hook);
        let y = tracked.family().feed(index, attended, &mut pass);
        drop(pass);
        let mut grads = (y * constant(gradient)).sum().backward();
        gradient = x.grad_remove(&mut grads).expect("a layer depends on its input");
        let (features, zero) = probed.expect("an MLP has hidden features");
        let slope = zero.grad_remove(&mut grads).expect("a layer depends on its hidden features");
        let [batch, time, width] = features.dims();
        let products = features.cast(DType::F32) * slope.cast(DType::F32);
        let rows = products.reshape([batch * time, width]);
        squares.push(to_host(rows.square().sum_dim(0))?);
    }
    squares.reverse();
    Ok(squares)
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::Device;
    use burn_blast::module::AnyLinear;

    use super::*;
    use crate::ModelConfig;
    use crate::corpus::Sequences;
    use crate::fine_tune::evaluate;
    use crate::fine_tune::tests::{config, corpus};
    use crate::one_shot::sample;

    fn models() -> Vec<Model> {
        let gpt2 = serde_json::json!({
            "model_type": "gpt2", "vocab_size": 256, "n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 64,
        });
        let model = |config| ModelConfig::parse(&config).unwrap().init(&Device::flex(), 5).unwrap();
        vec![model(config()), model(gpt2)]
    }

    /// The model with one hidden feature of a layer times `factor`: only the layer after it sees it.
    fn scaled(model: &Model, layer: usize, feature: usize, factor: f32) -> Model {
        let mut model = model.clone();
        let out = model.family().mlp_layers().1;
        let mut mlps = model.mlps_mut(0);
        let of_layer = |name: &str| name.contains(&format!(".{layer}.")) && name.ends_with(out);
        let (_, linear) = mlps.iter_mut().find(|(name, _)| of_layer(name)).unwrap();
        let AnyLinear::Dense(dense) = &mut **linear else { panic!("a dense layer") };
        let weight = dense.weight.val();
        let row = weight.clone().slice_dim(0, feature..feature + 1).mul_scalar(factor);
        let width = weight.dims()[1];
        let changed = weight.slice_assign([feature..feature + 1, 0..width], row);
        dense.weight = Param::from_tensor(changed);
        model
    }

    #[test]
    fn importance_is_the_squared_slope_of_the_loss() {
        let corpus = corpus();
        for model in models() {
            // A single token: its loss is the sum over the sample.
            let batch = corpus.batch(Sequences { context: 1, batch: 1 }, 0, 0, &Device::flex());
            let found =
                Importance::collect(&model, std::slice::from_ref(&batch), |_, _| {}).unwrap();
            let largest = found.hidden.iter().flatten().fold(0f32, |most, one| most.max(*one));
            for (layer, feature) in [(0, 0), (0, 7), (1, 3), (1, 31)] {
                let step = 0.05;
                let [up, down] = [1.0 + step, 1.0 - step].map(|factor| {
                    let model = scaled(&model, layer, feature, factor);
                    evaluate(&model, std::slice::from_ref(&batch)).unwrap()
                });
                let slope = (up - down) / f64::from(2.0 * step);
                let apart = (found.hidden[layer][feature] as f64 - slope * slope).abs();
                assert!(apart < 0.02 * f64::from(largest), "{layer} {feature}: {slope}");
            }
        }
    }

    #[test]
    fn importance_adds_up_over_sequences_and_needs_one() {
        let (device, corpus) = (Device::flex(), corpus());
        for model in models() {
            let all = sample(&corpus, 3, 8, 1, &device).unwrap();
            let whole = Importance::collect(&model, &all, |_, _| {}).unwrap();
            let parts = all.iter().map(|one| {
                Importance::collect(&model, std::slice::from_ref(one), |_, _| {}).unwrap()
            });
            let mut sums = vec![vec![0f32; whole.hidden[0].len()]; 2];
            for part in parts {
                for (sum, layer) in sums.iter_mut().zip(part.hidden) {
                    sum.iter_mut().zip(layer).for_each(|(sum, one)| *sum += one);
                }
            }
            for (found, expected) in whole.hidden.iter().flatten().zip(sums.iter().flatten()) {
                assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1e-6));
            }
            assert!(Importance::collect(&model, &[], |_, _| {}).is_err());
        }
    }
}
