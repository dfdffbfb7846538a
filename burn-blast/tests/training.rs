//! Whole training runs: on every device, on replicas, with tied layers, and against a teacher.

mod common;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{DType, Device, Tensor};
use burn_blast::BlockMask;
use burn_blast::module::{BlockSparseGatedMlp, BlockSparseGatedMlpConfig, BlockSparseLinear};
use burn_blast::prune::{
    Blast, BlastConfig, Budget, Growth, LayerRule, Schedule, check_replicas, pattern_hash,
};
use common::toy::{Net, attach, batch, config, step};
use common::{bits, descend, engines, numbers, tensor, uniform};

/// Losses of a run that prunes three quarters of the blocks and grows some back.
fn losses(device: &Device) -> Vec<f32> {
    let device = device.clone().autodiff();
    let (mut model, mut optim) = attach(config(50), &device);
    let mut losses = Vec::new();
    for at in 1..=50 {
        let loss;
        (model, loss) = step(model, &mut optim, at, 3e-3, &device);
        losses.push(loss);
    }
    losses
}

#[test]
fn losses_follow_those_of_the_cpu_within_rounding() {
    let cpu = losses(&Device::flex());
    assert!(cpu[49] < 0.8 * cpu[0], "{cpu:?}");
    for engine in engines() {
        let other = losses(&engine.device);
        for (at, (other, cpu)) in other.iter().zip(&cpu).enumerate() {
            let off = (other - cpu).abs() / cpu;
            assert!(off < 1e-3, "{}, step {}: {other} against {cpu}", engine.name, at + 1);
        }
    }
}

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

/// Trains two replicas with optimizers of their own.
fn replicas(reduced: bool, check: impl Fn(usize, &[Net; 2])) -> [Net; 2] {
    let device = Device::flex().autodiff();
    let start = Net::new(&device);
    let [(one, first), (other, second)] = [(); 2].map(|()| {
        Blast::new(AdamWConfig::new().build(), config(40)).attach(start.clone()).unwrap()
    });
    let (mut models, mut optims): (_, [ModuleOptimizer; 2]) = ([one, other], [first, second]);
    for at in 1..=40 {
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
    let [one, other] = replicas(true, |at, models| {
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
    let models = replicas(false, |_, _| ());
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
    let model = Net::new(&Device::flex());
    // Every block of two weights of 64 by 64 in blocks of 8: a number that another run must find as well.
    assert_eq!(pattern_hash(&model), GOLDEN, "{:#x}", pattern_hash(&model));
    let Net { a, b } = model;
    assert_ne!(pattern_hash(&a), pattern_hash(&Net { a: b, b: a.clone() }));
}

#[derive(Module, Debug)]
struct Gated {
    first: BlockSparseGatedMlp,
    second: BlockSparseGatedMlp,
}

impl Gated {
    fn new(device: &Device) -> Self {
        let config = BlockSparseGatedMlpConfig::new(32, 64).with_block_size(8);
        let mlp = |seed| config.clone().with_seed(seed).init(device);
        Self { first: mlp(1), second: mlp(2) }
    }
}

fn tied(path: &str) -> BlastConfig {
    BlastConfig::new(24).with_sparsity(0.75).with_interval(4).with_tied(vec![path.into()])
}

#[test]
fn tied_layers_keep_the_same_blocks_from_the_first_update_on() {
    for engine in engines() {
        let device = engine.device.autodiff();
        // A target of its own for the follower does not count: it takes the leader's blocks.
        let rule = LayerRule { path: "first.up".into(), sparsity: 0.1 };
        let config = tied("first").with_layers(vec![rule]);
        let blast = Blast::new(AdamWConfig::new().build(), config);
        let monitor = blast.monitor();
        let (mut net, mut optim) = blast.attach(Gated::new(&device)).unwrap();
        let mut changes = 0;
        for step in 1..=24 {
            let x = uniform([16, 32], step, &device);
            let before = net.first.up.pattern().clone();
            let y = net.second.forward(net.first.forward(x.clone()));
            let loss = (y - x.tanh()).powf_scalar(2.0).mean();
            net = descend(net, &mut optim, 1e-2, &loss);
            assert_eq!(net.first.gate.pattern(), net.first.up.pattern(), "step {step}");
            changes += usize::from(*net.first.up.pattern() != before);
        }
        assert!(changes >= 3, "{changes}");
        assert_ne!(net.second.gate.pattern(), net.second.up.pattern());
        for layer in &monitor.snapshot().layers {
            assert_eq!((layer.kept, layer.step > 0), (layer.blocks / 4, true), "{}", layer.name);
        }
    }
}

#[test]
fn what_cannot_be_tied_is_refused() {
    let global = Budget::Global { min_density: 0.05, max_density: 1.0 };
    for (config, phrase) in [
        (tied("third"), "\"third\" matches no layer"),
        (tied("first.down"), "no two layers in \"first.down\" can be tied"),
        (tied("first").with_dense(vec!["first.gate".into()]), "can be tied"),
        (tied("first").with_budget(global), "empty with a global budget"),
    ] {
        let blast = Blast::new(AdamWConfig::new().build(), config);
        let error = blast.attach(Gated::new(&Device::flex())).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(phrase), "{error}");
    }
}

/// Share of a sparse teacher's 64 blocks that a student finds.
fn found(growth: Growth) -> f64 {
    let device = Device::flex().autodiff();
    let layer = |seed| {
        let pattern = common::pattern(128, 128, 8, 0.25, seed);
        // As an initializer draws the weights of 32 kept inputs.
        let bound = (1.0 / 32.0_f32).sqrt();
        let dense: Vec<f32> = numbers(128 * 128, seed).iter().map(|w| w * bound).collect();
        let dense = tensor(&dense, [128, 128], &device, DType::F32);
        BlockSparseLinear::from_dense(dense, pattern)
    };
    // The student starts sparse too, on other blocks: without growth it can only stay there.
    let (teacher, student) = (layer(5), layer(6));
    let config = BlastConfig::new(400).with_sparsity(0.75).with_interval(10).with_growth(growth);
    let blast = Blast::new(AdamWConfig::new().build(), config.with_schedule(Schedule::Constant));
    let (mut student, mut optim) = blast.attach(student).unwrap();
    for at in 0..400 {
        let x = uniform([64, 128], 1000 + at, &device);
        let target = teacher.forward(x.clone()).detach();
        let loss = (student.forward(x) - target).square().mean();
        student = descend(student, &mut optim, 1e-2, &loss);
    }
    let hidden = BlockMask::from(teacher.pattern());
    BlockMask::from(student.pattern()).intersection(&hidden).count() as f64 / hidden.count() as f64
}

#[test]
fn growth_finds_the_hidden_mask_of_a_teacher() {
    let (with, without) = (found(Growth::Gradient), found(Growth::None));
    println!("blocks of the teacher found: {with} with growth, {without} without");
    assert!(with >= 0.95, "{with}");
    assert!(with > without);
}
