//! What `attach` makes of the model it meets, and layers that take no part in some steps.

mod common;

use std::sync::Mutex;

use burn::module::{Module, Param, ParamGroup};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use burn_blast::module::{BlockSparseGatedMlpConfig, BlockSparseLinear};
use burn_blast::prune::{
    Blast, BlastConfig, BlastError, Budget, Growth, LinearRule, Schedule, Structure,
};
use burn_blast::{BlockMask, BlockPattern, io};
use common::toy::{BLOCK, D, Net, batch, config};
use common::{descend, floats};

#[derive(Module, Debug)]
struct Experts {
    pair: Net,
}

/// Two experts, the second of which idles at every update, so that it misses all of them.
fn train_experts(config: &BlastConfig, steps: usize) -> (Net, Vec<[f64; 2]>) {
    let device = Device::flex().autodiff();
    let blast = Blast::new(AdamWConfig::new().build(), config.clone());
    let (mut model, mut optim) = blast.attach(Experts { pair: Net::new(&device) }).unwrap();
    let mut sparsity = Vec::new();
    for at in 1..=steps {
        let (x, y) = batch(at, &device);
        let mut output = model.pair.a.forward(x.clone());
        if !config.is_update(at) {
            output = output + model.pair.b.forward(x);
        }
        let loss = (output - y).square().mean();
        model = descend(model, &mut optim, 1e-3, &loss);
        sparsity.push([model.pair.a.sparsity(), model.pair.b.sparsity()]);
    }
    (model.pair, sparsity)
}

#[test]
fn an_update_that_a_layer_misses_is_made_up_for_at_its_next_step() {
    for schedule in
        [Schedule::Cubic, Schedule::Linear, Schedule::Step, Schedule::Cyclic { cycles: 2 }]
    {
        for growth in [Growth::Gradient, Growth::Random, Growth::None] {
            let cyclic = matches!(schedule, Schedule::Cyclic { .. });
            if cyclic && growth == Growth::None {
                continue;
            }
            let config = config(40).with_schedule(schedule).with_growth(growth);
            let (model, sparsity) = train_experts(&config, 40);
            let label = format!("{schedule:?}, {growth:?}");
            assert_eq!([model.a.sparsity(), model.b.sparsity()], [0.75; 2], "{label}");
            for at in (1..40).filter(|&at| config.is_update(at)) {
                assert_eq!(sparsity[at][1], sparsity[at - 1][0], "{label}, update {at}");
            }
        }
    }
}

#[test]
fn missed_updates_of_layers_that_depend_on_each_other_are_made_up_for_too() {
    let global = Budget::Global { min_density: 0.1, max_density: 0.9 };
    let (model, _) = train_experts(&config(40).with_budget(global), 40);
    let kept = model.a.pattern().nnz() + model.b.pattern().nnz();
    assert!(kept < model.a.pattern().block_count(), "{kept} of both layers");
    let tied = config(40).with_tied(vec!["pair".into()]);
    let (model, _) = train_experts(&tied, 40);
    assert_eq!(model.b.sparsity(), 0.75);
    assert_eq!(BlockMask::from(model.a.pattern()), BlockMask::from(model.b.pattern()));
    // Coupled layers of two MLPs, one of which idles.
    #[derive(Module, Debug)]
    struct Mlps {
        one: burn_blast::module::BlockSparseGatedMlp,
        other: burn_blast::module::BlockSparseGatedMlp,
    }
    let device = Device::flex().autodiff();
    let mlp = || BlockSparseGatedMlpConfig::new(D, D).with_block_size(BLOCK).init(&device);
    let config = config(40).with_structure(Structure::Coupled);
    let blast = Blast::new(AdamWConfig::new().build(), config.clone());
    let (mut model, mut optim) = blast.attach(Mlps { one: mlp(), other: mlp() }).unwrap();
    for at in 1..=40 {
        let (x, y) = batch(at, &device);
        let mut output = model.one.forward(x.clone());
        if !config.is_update(at) {
            output = output + model.other.forward(x);
        }
        model = descend(model, &mut optim, 1e-3, &(output - y).square().mean());
    }
    for mlp in [&model.one, &model.other] {
        for layer in [&mlp.gate, &mlp.up, &mlp.down] {
            assert_eq!(layer.sparsity(), 0.75);
        }
    }
}

/// A step in which an expert may idle: the first one around the update at 10, the second one at two other updates.
fn idle_step(
    model: Experts,
    optim: &mut ModuleOptimizer,
    at: usize,
    config: &BlastConfig,
    device: &Device,
) -> Experts {
    let (x, y) = batch(at, device);
    let output = match at {
        9 | 10 => model.pair.b.forward(x),
        at if at == 20 || at == config.last_update() => model.pair.a.forward(x),
        _ => model.pair.a.forward(x.clone()) + model.pair.b.forward(x),
    };
    descend(model, optim, 1e-3, &(output - y).square().mean())
}

#[test]
fn a_run_that_is_saved_while_a_layer_idles_resumes_bitwise_with_its_ledger() {
    let device = Device::flex().autodiff();
    let fresh = || Experts { pair: Net::new(&device) };
    let tied = config(40).with_tied(vec!["pair".into()]);
    for config in [config(40), tied, config(40).with_grace(8).with_growth(Growth::Random)] {
        let updates = [10, 20, config.last_update()];
        assert!(updates.into_iter().all(|at| config.is_update(at)));
        for save_at in updates {
            let folder = tempfile::tempdir().unwrap();
            let file = |name: &str| folder.path().join(name);
            let attach = |model: Experts, ledger: &str| {
                let blast = Blast::new(AdamWConfig::new().build(), config.clone());
                blast.with_ledger(file(ledger)).unwrap().attach(model).unwrap()
            };
            let (mut model, mut optim) = attach(fresh(), "whole");
            for at in 1..=40 {
                model = idle_step(model, &mut optim, at, &config, &device);
                if at == save_at {
                    io::save(&model, file("model.bpk")).unwrap();
                    io::save_optimizer(&optim, file("optim.bpk")).unwrap();
                    std::fs::copy(file("whole"), file("parts")).unwrap();
                }
            }
            let (again, optim) = attach(io::load(fresh(), file("model.bpk")).unwrap(), "parts");
            let mut optim = io::load_optimizer(optim, &again, file("optim.bpk")).unwrap();
            let mut again = again;
            for at in save_at + 1..=40 {
                again = idle_step(again, &mut optim, at, &config, &device);
            }
            assert!(again.pair.content() == model.pair.content(), "{config:?}, {save_at}");
            let lines = |name: &str| std::fs::read_to_string(file(name)).unwrap();
            assert_eq!(lines("parts"), lines("whole"), "{config:?}, {save_at}");
            assert_eq!([model.pair.a.sparsity(), model.pair.b.sparsity()], [0.75; 2]);
        }
    }
}

/// A layer that idles for several updates makes up for the latest one alone.
#[test]
fn a_layer_that_comes_late_reaches_the_target() {
    let device = Device::flex().autodiff();
    let blast = Blast::new(AdamWConfig::new().build(), config(40));
    let monitor = blast.monitor();
    let (mut model, mut optim) = blast.attach(Net::new(&device)).unwrap();
    for at in 1..=60 {
        let (x, y) = batch(at, &device);
        let mut output = model.a.forward(x.clone());
        if at == 50 {
            output = output + model.b.forward(x);
        }
        model = descend(model, &mut optim, 1e-3, &(output - y).square().mean());
        assert_eq!(model.b.sparsity(), if at < 50 { 0.0 } else { 0.75 }, "step {at}");
    }
    assert_eq!(monitor.snapshot().sparsity, 0.75);
}

#[derive(Module, Debug)]
struct Plain {
    a: Linear,
}

/// A plain layer of which every second block column is zero.
fn half_empty(device: &Device) -> Plain {
    let keep: Vec<f32> =
        (0..D * D).map(|at| if (at % D / BLOCK).is_multiple_of(2) { 1.0 } else { 0.0 }).collect();
    let layer = LinearConfig::new(D, D).with_bias(false).init(device);
    let keep = Tensor::<1>::from_floats(keep.as_slice(), device).reshape([D, D]);
    Plain {
        a: Linear { weight: Param::from_tensor((layer.weight.val() * keep).detach()), bias: None },
    }
}

fn attach_plain(model: Plain, config: BlastConfig) -> (Plain, ModuleOptimizer, f64) {
    let rule = LinearRule { path: "a".into(), block_size: BLOCK };
    let blast = Blast::new(AdamWConfig::new().build(), config.with_linear(vec![rule]));
    let monitor = blast.monitor();
    let (model, optim) = blast.attach(model).unwrap();
    (model, optim, monitor.snapshot().sparsity)
}

#[test]
fn zero_blocks_of_a_plain_layer_are_absent_from_the_start() {
    let device = Device::flex().autodiff();
    for growth in [Growth::None, Growth::Gradient] {
        let config = config(40).with_growth(growth);
        let (mut model, mut optim, before) = attach_plain(half_empty(&device), config.clone());
        assert_eq!(before, 0.5);
        for at in 1..=40 {
            let (x, y) = batch(at, &device);
            model = {
                let loss = (model.a.forward(x) - y).square().mean();
                descend(model, &mut optim, 1e-3, &loss)
            };
            let packed = BlockSparseLinear::from_linear(&model.a, BLOCK).unwrap();
            assert!(packed.sparsity() >= 0.5, "step {at}: {}", packed.sparsity());
        }
        let packed = BlockSparseLinear::from_linear(&model.a, BLOCK).unwrap();
        assert!(packed.sparsity() >= 0.75, "{growth:?}");
    }
}

/// It has yet to learn, as the last layer of a block that starts as the identity.
#[test]
fn a_plain_layer_of_nothing_but_zeros_is_dense() {
    let device = Device::flex().autodiff();
    let zero = Linear { weight: Param::from_tensor(Tensor::zeros([D, D], &device)), bias: None };
    let (mut model, mut optim, before) = attach_plain(Plain { a: zero }, config(40));
    assert_eq!(before, 0.0);
    let (x, y) = batch(1, &device);
    let loss = (model.a.forward(x) - y).square().mean();
    model = descend(model, &mut optim, 1e-3, &loss);
    assert!(floats(model.a.weight.val()).iter().filter(|value| **value != 0.0).count() > D);
}

#[test]
fn layers_with_one_parameter_id_are_refused_with_both_paths() {
    #[derive(Module, Debug)]
    struct Stack {
        layers: Vec<BlockSparseLinear>,
        plain: Vec<Linear>,
    }
    let device = Device::flex().autodiff();
    let (sparse, plain) = (Net::new(&device).a, LinearConfig::new(D, D).init(&device));
    let refuse = |layers: Vec<BlockSparseLinear>, plain: Vec<Linear>| {
        let rule = LinearRule { path: "plain".into(), block_size: BLOCK };
        let blast = Blast::new(AdamWConfig::new().build(), config(40).with_linear(vec![rule]));
        blast.attach(Stack { layers, plain }).map(|_| ()).unwrap_err()
    };
    for (layers, plain, names) in [
        (vec![sparse.clone(); 3], vec![plain.clone()], ["layers.0", "layers.1"]),
        (vec![sparse], vec![plain.clone(), plain], ["plain.0", "plain.1"]),
    ] {
        let error = refuse(layers, plain);
        assert!(matches!(error, BlastError::SharedParameter { .. }), "{error}");
        let error = error.to_string();
        assert!(names.iter().all(|name| error.contains(&format!("\"{name}\""))), "{error}");
    }
}

/// Warnings of this process that name a layer. Every test that reads them has a name of its own for its layers.
fn warnings(layer: &str) -> Vec<String> {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    struct Keep;
    impl log::Log for Keep {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            SAID.lock().unwrap().push(record.args().to_string());
        }
        fn flush(&self) {}
    }
    // Set by the first of several calls.
    if log::set_logger(&Keep).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
    SAID.lock().unwrap().iter().filter(|line| line.starts_with(layer)).cloned().collect()
}

#[test]
fn a_layer_below_its_target_that_cannot_grow_is_named_at_attach() {
    #[derive(Module, Debug)]
    struct Below {
        below: Net,
    }
    assert!(warnings("below").is_empty());
    let device = Device::flex();
    // A quarter of the blocks is kept.
    let model = || {
        let dense = Net::new(&device);
        let (shape, block) = (dense.a.pattern().shape(), dense.a.pattern().block());
        let quarter = BlockPattern::random(shape, block, 0.25, 1);
        let a = BlockSparseLinear::from_dense(Tensor::ones([D, D], &device), quarter);
        Below { below: Net { a, b: dense.b } }
    };
    let attach = |config: BlastConfig| {
        Blast::new(AdamWConfig::new().build(), config).attach(model()).map(drop).unwrap();
    };
    attach(config(40).with_sparsity(0.5));
    attach(config(40).with_sparsity(0.75).with_growth(Growth::None));
    assert!(warnings("below").is_empty());
    attach(config(40).with_sparsity(0.5).with_growth(Growth::None));
    let found = warnings("below");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("below.a: has "), "{found:?}");
}

#[test]
fn a_layer_that_another_optimizer_owns_is_named_after_the_first_update() {
    #[derive(Module, Debug)]
    struct Owned {
        owned: Net,
    }
    assert!(warnings("owned").is_empty());
    let device = Device::flex().autodiff();
    let config = config(40);
    let blast = Blast::new(AdamWConfig::new().build(), config.clone());
    let (mut model, optim) = blast.attach(Owned { owned: Net::new(&device) }).unwrap();
    let group = ParamGroup::from_path("owned.b.weight.values");
    let mut optim = optim.with_group(group, AdamWConfig::new().build(), None);
    for at in 1..=config.first_update() + 1 {
        assert!(warnings("owned").is_empty(), "step {at}");
        let (x, y) = batch(at, &device);
        let output = model.owned.a.forward(x.clone()) + model.owned.b.forward(x);
        model = descend(model, &mut optim, 1e-3, &(output - y).square().mean());
    }
    let found = warnings("owned");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("owned.b: took no step"), "{found:?}");
    assert_eq!(model.owned.b.sparsity(), 0.0);
}
