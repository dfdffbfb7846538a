//! Data parallelism: replicas keep one pattern, and it is noticed when they do not.

mod common;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use burn_blast::prune::{Blast, check_replicas, pattern_hash};
use common::bits;
use common::toy::{Net, batch, config};

const STEPS: usize = 40;

/// FNV-1a over names and patterns of the toy model, computed by another program.
const GOLDEN: u64 = 0xf6ae_21e7_3642_5e46;

/// Gradients of one replica on its half of a batch.
fn gradients(model: &Net, at: usize, half: usize, device: &Device) -> GradientsParams {
    let (x, y) = batch(at, device);
    let part = |tensor: Tensor<2>| tensor.narrow(0, half * 8, 8);
    let loss = (model.forward(part(x)) - part(y)).square().mean();
    GradientsParams::from_grads(loss.backward(), model)
}

/// What an all-reduce by mean does: both replicas get the same gradients.
struct AllReduce<'a>(&'a mut [GradientsParams; 2]);

impl ModuleVisitor for AllReduce<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let [one, other] = self.0;
        if let (Some(a), Some(b)) = (one.remove::<D>(param.id), other.remove::<D>(param.id)) {
            let mean = (a + b).div_scalar(2.0);
            one.register(param.id, mean.clone());
            other.register(param.id, mean);
        }
    }
}

/// Two replicas with optimizers of their own.
fn replicas(device: &Device) -> ([Net; 2], [ModuleOptimizer; 2]) {
    let start = Net::new(device);
    let attach =
        || Blast::new(AdamWConfig::new().build(), config(STEPS)).attach(start.clone()).unwrap();
    let ((one, first), (other, second)) = (attach(), attach());
    ([one, other], [first, second])
}

fn train(reduced: bool, check: impl Fn(usize, &[Net; 2])) -> [Net; 2] {
    let device = Device::flex().autodiff();
    let (mut models, mut optims) = replicas(&device);
    for at in 1..=STEPS {
        let mut grads = [0, 1].map(|half| gradients(&models[half], at, half, &device));
        if reduced {
            models[0].visit(&mut AllReduce(&mut grads));
        }
        let [one, other] = models;
        let [first, second] = grads;
        models = [optims[0].step(3e-3, one, first), optims[1].step(3e-3, other, second)];
        check(at, &models);
    }
    models
}

#[test]
fn replicas_with_reduced_gradients_stay_one_model() {
    let [one, other] = train(true, |at, models| {
        check_replicas(models).unwrap_or_else(|error| panic!("step {at}: {error}"));
        assert_eq!(pattern_hash(&models[0]), pattern_hash(&models[1]), "step {at}");
    });
    assert_eq!(one.a.sparsity(), 0.75);
    for (one, other) in [(&one.a, &other.a), (&one.b, &other.b)] {
        assert_eq!(bits(one.weight.values()), bits(other.weight.values()));
    }
}

#[test]
fn replicas_that_part_are_noticed() {
    let models = train(false, |_, _| ());
    let error = check_replicas(&models).unwrap_err().to_string();
    assert!(error.starts_with("replicas keep different blocks in layer \"a\""), "{error}");
    assert_ne!(pattern_hash(&models[0]), pattern_hash(&models[1]));
}

#[test]
fn a_replica_with_another_number_of_layers_is_noticed() {
    let Net { a, b } = Net::new(&Device::flex());
    for replicas in [[vec![a.clone()], vec![a.clone(), b.clone()]], [vec![a.clone(), b], vec![a]]] {
        let error = check_replicas(&replicas).unwrap_err().to_string();
        assert!(error.contains("in layer \"1\""), "{error}");
    }
}

#[test]
fn the_hash_of_a_model_depends_on_its_names_and_blocks() {
    let device = Device::flex();
    let model = Net::new(&device);
    // Every block of two weights of 64 by 64 in blocks of 8: a number that another run must find as well.
    assert_eq!(pattern_hash(&model), GOLDEN, "{:#x}", pattern_hash(&model));
    let Net { a, b } = model;
    assert_ne!(pattern_hash(&a), pattern_hash(&Net { a: b, b: a.clone() }));
}
