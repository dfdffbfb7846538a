//! Files that earlier versions wrote still load and give the same outputs.
//!
//! `tests/data` holds a model in both formats and the state of its optimizer, one step before an update of the pattern, so
//! that a probe is recorded too. The code of commit fea8968 wrote them, and printed the expected numbers.

mod common;

use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{DType, Device, Tensor};
use burn_blast::io;
use burn_blast::prune::{Blast, BlastConfig};
use common::saved::{Net, content, net};
use common::{numbers, tensor};

/// Mean square of the outputs after loading, and after each of three more steps. One of these updates the pattern.
const EXPECTED: [f32; 4] = [0.011503481, 0.010645106, 0.011822286, 0.013235644];

/// Step that the files were written after.
const SAVED_AT: usize = 11;

fn attach(model: Net) -> (Net, ModuleOptimizer) {
    let config = BlastConfig::new(20).with_sparsity(0.5).with_interval(4).with_end_fraction(0.8);
    Blast::new(AdamWConfig::new().build(), config).attach(model).unwrap()
}

fn forward(model: &Net, step: usize, device: &Device) -> Tensor<2> {
    let x = tensor(&numbers(8 * 4, step as u64), [8, 4], device, DType::F32);
    model.b.forward(model.a.forward(model.first.forward(x)).tanh())
}

fn step(model: Net, optimizer: &mut ModuleOptimizer, at: usize, device: &Device) -> Net {
    let target = tensor(&numbers(8 * 16, 100 + at as u64), [8, 16], device, DType::F32);
    let loss = (forward(&model, at, device) - target).square().mean();
    let gradients = GradientsParams::from_grads(loss.backward(), &model);
    optimizer.step(1e-2, model, gradients)
}

fn mean_square(model: &Net, device: &Device) -> f32 {
    forward(model, 0, device).square().mean().into_scalar::<f32>()
}

fn data(name: &str) -> String {
    format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn files_of_an_earlier_version_give_the_outputs_that_they_gave() {
    let device = Device::flex().autodiff();
    let model = io::load(net(0.0, 2, &device), data("model.bpk")).unwrap();
    let other = io::load_safetensors(net(0.9, 3, &device), data("model.safetensors")).unwrap();
    assert_eq!(content(&model), content(&other));
    assert_eq!(model.a.pattern(), other.a.pattern());

    let (mut model, optimizer) = attach(model);
    let mut optimizer = io::load_optimizer(optimizer, &model, data("optimizer.bpk")).unwrap();
    let (pattern, mut found) = (model.a.pattern().clone(), vec![mean_square(&model, &device)]);
    for at in 1..=3 {
        model = step(model, &mut optimizer, SAVED_AT + at, &device);
        found.push(mean_square(&model, &device));
    }
    assert_ne!(*model.a.pattern(), pattern);
    for (found, expected) in found.iter().zip(EXPECTED) {
        assert!((found - expected).abs() < 1e-5 * expected, "{found} instead of {expected}");
    }
}
