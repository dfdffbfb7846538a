//! Pruning in a training loop: curves, counts, moments, resume, and finding a hidden mask.

mod common;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{
    AdaGradConfig, AdamConfig, AdamWConfig, AdanConfig, GradientsParams, LambConfig, LionConfig,
    ModuleOptimizer, RmsPropConfig, SgdConfig, momentum::MomentumConfig,
};
use burn::tensor::{DType, Device, Tensor};
use burn_blast::prune::{
    Blast, BlastConfig, BlockOptimizer, Budget, Growth, KeepRule, LayerRule, LinearRule, Monitor,
    Schedule, Score,
};
use burn_blast::{BlockMask, BlockSparseLinear, BlockSparseLinearConfig, Strategy, io};
use common::{bits, engines, floats, numbers, tensor};

const D: usize = 64;
const BLOCK: usize = 8;

#[derive(Module, Debug)]
struct Net {
    a: BlockSparseLinear,
    b: BlockSparseLinear,
}

impl Net {
    fn new(device: &Device) -> Self {
        device.seed(11);
        let layer = || {
            BlockSparseLinearConfig::new(D, D)
                .with_block_size(BLOCK)
                .init(device)
                .with_strategy(Strategy::Sparse)
        };
        Self { a: layer(), b: layer() }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.b.forward(self.a.forward(x).tanh())
    }
}

/// Inputs and targets of a step: a pure function of the step.
fn batch(step: usize, device: &Device) -> (Tensor<2>, Tensor<2>) {
    let x = numbers(16 * D, step as u64);
    // A target with structure: a rotation of the inputs, so that some blocks matter more.
    let y: Vec<f32> = (0..16 * D).map(|at| 0.8 * x[at / D * D + (at * 3 + 1) % D]).collect();
    (tensor(&x, [16, D], device, DType::F32), tensor(&y, [16, D], device, DType::F32))
}

fn step(
    model: Net,
    optim: &mut ModuleOptimizer,
    at: usize,
    lr: f64,
    device: &Device,
) -> (Net, f32) {
    let (x, y) = batch(at, device);
    let loss = (model.forward(x) - y).square().mean();
    let value = loss.clone().into_scalar::<f32>();
    let grads = GradientsParams::from_grads(loss.backward(), &model);
    (optim.step(lr, model, grads), value)
}

fn config(steps: usize) -> BlastConfig {
    BlastConfig::new(steps).with_sparsity(0.75).with_interval(5).with_end_fraction(0.8)
}

fn train(model: Net, optim: &mut ModuleOptimizer, steps: usize, device: &Device) -> (Net, f32) {
    let mut last = 0.0;
    let mut model = model;
    for at in 1..=steps {
        (model, last) = step(model, optim, at, 3e-3, device);
    }
    (model, last)
}

fn run<O: BlockOptimizer>(
    inner: O,
    config: BlastConfig,
    steps: usize,
    device: &Device,
) -> (Net, Monitor, f32) {
    let blast = Blast::new(inner, config);
    let monitor = blast.monitor();
    let (model, mut optim) = blast.attach(Net::new(device)).unwrap();
    let (model, loss) = train(model, &mut optim, steps, device);
    (model, monitor, loss)
}

#[test]
fn at_no_sparsity_training_is_that_of_linear_layers() {
    #[derive(Module, Debug)]
    struct Twin {
        a: Linear,
        b: Linear,
    }
    for engine in engines().into_iter().filter(|engine| !engine.slow) {
        let device = engine.device.clone().autodiff();
        let sparse = Net::new(&device);
        let mut dense =
            Twin { a: sparse.a.clone().into_linear(), b: sparse.b.clone().into_linear() };
        let config = config(200).with_sparsity(0.0).with_growth(Growth::None);
        let (mut sparse, mut optim) =
            Blast::new(AdamWConfig::new().build(), config).attach(sparse).unwrap();
        let mut dense_optim: ModuleOptimizer = AdamWConfig::new().init();
        for at in 1..=200 {
            let loss;
            (sparse, loss) = step(sparse, &mut optim, at, 1e-3, &device);
            let (x, y) = batch(at, &device);
            let dense_loss = (dense.b.forward(dense.a.forward(x).tanh()) - y).square().mean();
            let value = dense_loss.clone().into_scalar::<f32>();
            let grads = GradientsParams::from_grads(dense_loss.backward(), &dense);
            dense = dense_optim.step(1e-3, dense, grads);
            let off = (loss - value).abs();
            assert!(off < 1e-5, "{} step {at}: {loss} and {value}", engine.name);
        }
    }
}

#[test]
fn the_sparsity_asked_for_reported_and_stored_is_one_number() {
    for engine in engines() {
        let device = engine.device.clone().autodiff();
        let steps = if engine.slow { 16 } else { 40 };
        let config = config(steps);
        let blast = Blast::new(AdamWConfig::new().build(), config.clone());
        let monitor = blast.monitor();
        let (mut model, mut optim) = blast.attach(Net::new(&device)).unwrap();
        let blocks = (D / BLOCK) * (D / BLOCK);
        for at in 1..=steps {
            (model, _) = step(model, &mut optim, at, 1e-3, &device);
            let latest = (1..=at).rev().find(|&at| config.is_update(at));
            let asked = latest.map_or(0.0, |at| config.sparsity_at(at, 0.0, 0.75));
            let kept = ((1.0 - asked) * blocks as f64).round() as usize;
            let snapshot = monitor.snapshot();
            for (layer, line) in [&model.a, &model.b].into_iter().zip(&snapshot.layers) {
                assert_eq!(layer.pattern().nnz(), kept, "{} step {at}", engine.name);
                assert_eq!(layer.weight.values().dims(), [kept, BLOCK, BLOCK]);
                assert_eq!(line.kept, kept);
                assert_eq!(line.bytes, layer.bytes());
                assert_eq!(line.survivors + line.regrown, line.kept);
            }
            assert_eq!(snapshot.sparsity, 1.0 - kept as f64 / blocks as f64);
            assert_eq!(snapshot.step, at);
        }
        assert_eq!(model.a.sparsity(), 0.75);
    }
}

#[test]
fn training_goes_on_while_blocks_go() {
    let device = Device::flex().autodiff();
    let first = step(Net::new(&device), &mut AdamWConfig::new().init(), 1, 1e-3, &device).1;
    for growth in [Growth::Gradient, Growth::Random, Growth::None] {
        let (_, _, loss) =
            run(AdamWConfig::new().build(), config(120).with_growth(growth), 120, &device);
        assert!(loss < 0.7 * first, "{growth:?}: {loss} after {first}");
    }
}

#[test]
fn every_optimizer_prunes_to_the_target() {
    let device = Device::flex().autodiff();
    let momentum = MomentumConfig::new().with_momentum(0.9);
    let check = |name: &str, (model, _, loss): (Net, Monitor, f32)| {
        assert_eq!(model.a.sparsity(), 0.75, "{name}");
        assert!(loss.is_finite(), "{name}");
    };
    let config = || config(30);
    check("adam", run(AdamConfig::new().build(), config(), 30, &device));
    check("adamw", run(AdamWConfig::new().with_amsgrad(true).build(), config(), 30, &device));
    check("sgd", run(SgdConfig::new().build(), config(), 30, &device));
    let with_momentum = SgdConfig::new().with_momentum(Some(momentum)).build();
    check("sgd with momentum", run(with_momentum, config(), 30, &device));
    check("lion", run(LionConfig::new().build(), config(), 30, &device));
    check("rmsprop", run(RmsPropConfig::new().with_centered(true).build(), config(), 30, &device));
    let with_momentum = RmsPropConfig::new().with_momentum(0.9).build();
    check("rmsprop with momentum", run(with_momentum, config(), 30, &device));
    check("adan", run(AdanConfig::new().build(), config(), 30, &device));
    check("adagrad", run(AdaGradConfig::new().build(), config(), 30, &device));
    check("lamb", run(LambConfig::new().build(), config(), 30, &device));
}

#[test]
fn every_schedule_score_rule_and_budget_lands_on_target() {
    let device = Device::flex().autodiff();
    let global = Budget::Global { min_density: 0.1, max_density: 0.6 };
    let configs = [
        config(40).with_schedule(Schedule::Linear),
        config(40).with_schedule(Schedule::OneShot),
        config(40).with_schedule(Schedule::Constant),
        config(40).with_schedule(Schedule::Cyclic { cycles: 2 }),
        config(40).with_score(Score::Saliency),
        config(40).with_score(Score::Movement),
        config(40).with_keep(KeepRule::Union),
        config(40).with_keep(KeepRule::Union).with_schedule(Schedule::OneShot),
        config(40).with_budget(Budget::ErdosRenyi),
        config(40).with_budget(global),
    ];
    for config in configs {
        let name = config.to_string();
        let (model, monitor, _) = run(AdamWConfig::new().build(), config, 40, &device);
        let snapshot = monitor.snapshot();
        assert_eq!(snapshot.sparsity, 0.75, "{name}");
        let stored: usize = [&model.a, &model.b].map(|layer| layer.pattern().nnz()).iter().sum();
        assert_eq!(snapshot.layers.iter().map(|layer| layer.kept).sum::<usize>(), stored);
    }
}

#[test]
fn overrides_and_exemptions_are_obeyed() {
    let device = Device::flex().autodiff();
    let rule = LayerRule { path: "a".into(), sparsity: 0.5 };
    let (model, _, _) =
        run(AdamWConfig::new().build(), config(40).with_layers(vec![rule]), 40, &device);
    assert_eq!((model.a.sparsity(), model.b.sparsity()), (0.5, 0.75));
    let rule = LayerRule { path: "a".into(), sparsity: 0.5 };
    let global = Budget::Global { min_density: 0.0, max_density: 1.0 };
    let config_global = config(40).with_layers(vec![rule]).with_budget(global);
    let (model, _, _) = run(AdamWConfig::new().build(), config_global, 40, &device);
    assert_eq!((model.a.sparsity(), model.b.sparsity()), (0.5, 0.75));
    let (model, _, _) =
        run(AdamWConfig::new().build(), config(40).with_dense(vec!["a".into()]), 40, &device);
    assert_eq!((model.a.sparsity(), model.b.sparsity()), (0.0, 0.75));
    let (model, monitor, _) =
        run(AdamWConfig::new().build(), config(40).with_dense_last(1), 40, &device);
    assert_eq!((model.a.sparsity(), model.b.sparsity()), (0.75, 0.0));
    assert_eq!(monitor.snapshot().sparsity, 0.75);
}

#[test]
fn a_setup_that_does_nothing_is_refused() {
    let device = Device::flex();
    let attach = |config: BlastConfig| {
        Blast::new(AdamWConfig::new().build(), config)
            .attach(Net::new(&device))
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        attach(config(40).with_dense(vec!["layers.3".into()])),
        "the path \"layers.3\" matches no layer; the layers are: a, b"
    );
    assert_eq!(
        attach(config(40).with_dense_last(2)),
        "every layer is kept dense: there is nothing left to prune"
    );
    let rule = LinearRule { path: "c".into(), block_size: 8 };
    assert_eq!(
        attach(config(40).with_linear(vec![rule])),
        "the path \"c\" matches no layer; the layers are: a, b"
    );
    let dense = LinearConfig::new(8, 8).init(&device);
    let error =
        Blast::new(AdamWConfig::new().build(), config(40)).attach(dense).map(|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the model has no BlockSparseLinear layer and no linear layer was selected: \
         use the layer type, or BlastConfig::with_linear for plain nn::Linear"
    );
}

#[test]
fn one_blast_serves_one_model() {
    let device = Device::flex();
    let blast = Blast::new(AdamWConfig::new().build(), config(40));
    assert!(blast.clone().attach(Net::new(&device)).is_ok());
    let error = blast.attach(Net::new(&device)).map(|_| ()).unwrap_err().to_string();
    assert_eq!(
        error,
        "this Blast, or one it was cloned from, is attached to a model already: build one for each model"
    );
}

#[test]
fn an_old_clone_keeps_its_own_blocks() {
    let device = Device::flex().autodiff();
    let (mut model, mut optim) =
        Blast::new(AdamWConfig::new().build(), config(40)).attach(Net::new(&device)).unwrap();
    let old = model.clone();
    let before = floats(old.a.to_dense());
    for at in 1..=40 {
        (model, _) = step(model, &mut optim, at, 1e-2, &device);
    }
    assert_eq!(old.a.sparsity(), 0.0);
    assert_eq!(floats(old.a.to_dense()), before);
    assert_eq!(model.a.sparsity(), 0.75);
}

#[test]
fn a_frozen_layer_is_left_alone_and_the_other_is_pruned() {
    let device = Device::flex().autodiff();
    let mut net = Net::new(&device);
    net.a = net.a.freeze();
    let (model, mut optim) =
        Blast::new(AdamWConfig::new().build(), config(40)).attach(net).unwrap();
    let before = floats(model.a.to_dense());
    let (model, _) = train(model, &mut optim, 40, &device);
    assert_eq!((model.a.sparsity(), model.b.sparsity()), (0.0, 0.75));
    assert_eq!(floats(model.a.to_dense()), before);
}

#[test]
fn clipping_reaches_weights_and_spares_the_norms_growth_ranks_by() {
    use burn::grad_clipping::GradientClippingConfig;
    let device = Device::flex().autodiff();
    let run = |clip: Option<f32>, steps: usize, lr: f64| {
        let mut blast = Blast::new(SgdConfig::new().build(), config(40));
        if let Some(clip) = clip {
            blast = blast.with_grad_clipping(&GradientClippingConfig::Value(clip));
        }
        let (mut model, mut optim) = blast.attach(Net::new(&device)).unwrap();
        let start = floats(model.b.to_dense());
        for at in 1..=steps {
            (model, _) = step(model, &mut optim, at, lr, &device);
        }
        let moved = floats(model.b.to_dense());
        let moves = moved.iter().zip(&start).map(|(a, b)| (a - b).abs());
        (model.b.pattern().clone(), moves.fold(0.0, f32::max))
    };
    let largest = |clip| run(clip, 1, 1.0).1;
    assert!(largest(Some(1e-4)) <= 1.01e-4 && largest(None) > 1e-3);
    // With a rate of zero both runs see the same gradients: the same blocks grow, clipped or not.
    assert_eq!(run(None, 40, 0.0).0, run(Some(1e-4), 40, 0.0).0);
}

/// After a step with known gradients, the moments of a kept block must be those it had.
#[test]
fn moments_follow_their_blocks() {
    let device = Device::flex().autodiff();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("optim.bpk");
    let moments = |optim: &ModuleOptimizer, model: &Net| {
        io::save_optimizer(optim, &path).unwrap();
        let reader = burn_pack::Reader::from_file(&path).unwrap();
        let id = model.a.weight.id().val().to_string();
        let tensors = reader.into_tensors().unwrap();
        let found = tensors.into_iter().find(|tensor| {
            tensor.clone().into_parts().unwrap().0.starts_with(&id)
                && tensor.clone().into_parts().unwrap().0.ends_with("momentum")
        });
        let (_, dtype, shape, _, bytes) = found.unwrap().into_parts().unwrap();
        let data = burn::tensor::TensorData::from_bytes(bytes, shape, dtype);
        let packed: Vec<f32> = data.iter::<f32>().collect();
        burn_blast_kernels::pack::unpack(&packed, model.a.pattern())
    };
    // Lion's momentum after a step is 0.99 of the old plus 0.01 of the gradient; with a loss of zero weight the
    // gradient is zero, so only the move between blocks can change anything but that factor.
    let config = config(20).with_growth(Growth::Random);
    let (mut model, mut optim) =
        Blast::new(LionConfig::new().build(), config.clone()).attach(Net::new(&device)).unwrap();
    (model, _) = step(model, &mut optim, 1, 1e-3, &device);
    let start = moments(&optim, &model);
    let mut ever_dropped = BlockMask::empty(model.a.pattern().shape(), model.a.pattern().block());
    for at in 2..=20 {
        let (x, _) = batch(at, &device);
        let loss = model.forward(x).mul_scalar(0.0).sum();
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optim.step(0.0, model, grads);
        let kept = BlockMask::from(model.a.pattern());
        ever_dropped =
            ever_dropped.union(&BlockMask::full(kept.shape(), kept.block()).difference(&kept));
    }
    assert_eq!(model.a.sparsity(), 0.75);
    let factor = 0.99_f32.powi(19);
    for (at, (&now, &was)) in moments(&optim, &model).iter().zip(&start).enumerate() {
        let dropped = ever_dropped.get(at / D / BLOCK, at % D / BLOCK);
        let want = if dropped { 0.0 } else { factor * was };
        assert!((now - want).abs() <= 1e-4 * was.abs(), "[{at}]: {now}, not {want}");
    }
}

#[test]
#[should_panic(expected = "this block-sparse weight is unknown to the optimizer")]
fn a_layer_added_after_attaching_is_noticed() {
    let device = Device::flex().autodiff();
    let (_, mut optim) =
        Blast::new(AdamWConfig::new().build(), config(40)).attach(Net::new(&device)).unwrap();
    step(Net::new(&device), &mut optim, 1, 1e-3, &device);
}

/// With a rate of zero nothing moves but the blocks: every kept block must hold what it held.
#[test]
fn kept_blocks_keep_their_values_and_new_ones_start_at_zero() {
    let device = Device::flex().autodiff();
    let inner = AdamWConfig::new().with_weight_decay(0.0).build();
    let (mut model, mut optim) = Blast::new(inner, config(40)).attach(Net::new(&device)).unwrap();
    let start = floats(model.a.to_dense());
    let mut ever_dropped = BlockMask::empty(model.a.pattern().shape(), model.a.pattern().block());
    for at in 1..=40 {
        (model, _) = step(model, &mut optim, at, 0.0, &device);
        let kept = BlockMask::from(model.a.pattern());
        let full = BlockMask::full(kept.shape(), kept.block());
        ever_dropped = ever_dropped.union(&full.difference(&kept));
        for (at, (&now, &was)) in floats(model.a.to_dense()).iter().zip(&start).enumerate() {
            let (row, col) = (at / D / BLOCK, at % D / BLOCK);
            let want = if ever_dropped.get(row, col) { 0.0 } else { was };
            assert_eq!(now, want);
        }
    }
}

#[test]
fn a_plain_linear_layer_is_pruned_in_place() {
    #[derive(Module, Debug)]
    struct Plain {
        a: Linear,
        b: Linear,
    }
    for engine in engines() {
        let device = engine.device.clone().autodiff();
        let steps = if engine.slow { 10 } else { 40 };
        let model = Plain {
            a: LinearConfig::new(D, D).init(&device),
            b: LinearConfig::new(D, D).init(&device),
        };
        let rule = LinearRule { path: "a".into(), block_size: BLOCK };
        let blast = Blast::new(AdamWConfig::new().build(), config(steps).with_linear(vec![rule]));
        let monitor = blast.monitor();
        let (mut model, mut optim) = blast.attach(model).unwrap();
        for at in 1..=steps {
            let (x, y) = batch(at, &device);
            let loss = (model.b.forward(model.a.forward(x).tanh()) - y).square().mean();
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            model = optim.step(1e-3, model, grads);
        }
        let packed = BlockSparseLinear::from_linear(&model.a, BLOCK).unwrap();
        // A block grown at the very last update is zero still, and counts as kept.
        assert_eq!(monitor.snapshot().sparsity, 0.75);
        assert!(packed.sparsity() >= 0.75, "{} on {}", packed.sparsity(), engine.name);
        let untouched = BlockSparseLinear::from_linear(&model.b, BLOCK).unwrap();
        assert_eq!(untouched.sparsity(), 0.0);
    }
}

/// Everything that decides how training goes on, as bits.
fn fingerprint(model: &Net, optim: &ModuleOptimizer) -> (Vec<Vec<u32>>, Vec<String>) {
    let mut all = Vec::new();
    for layer in [&model.a, &model.b] {
        all.push(bits(layer.weight.values()));
        all.push(bits(layer.bias.as_ref().unwrap().val()));
        all.push(layer.pattern().row_idx().to_vec());
        all.push(layer.pattern().col_ptr().to_vec());
    }
    // The order of entries in an optimizer file is not fixed.
    let reader = burn_pack::Reader::from_bytes(optim.into_bytes().unwrap()).unwrap();
    let scalars = reader.scalars().iter().map(|(name, value)| format!("{name} = {value:?}"));
    let mut state: Vec<String> = scalars.collect();
    for tensor in reader.into_tensors().unwrap() {
        let (name, dtype, shape, _, bytes) = tensor.into_parts().unwrap();
        state.push(format!("{name} {dtype:?} {shape:?} {:?}", &bytes[..]));
    }
    state.sort_unstable();
    (all, state)
}

fn resumes_bitwise(config: BlastConfig, save_at: usize) {
    let device = Device::flex().autodiff();
    let blast = || Blast::new(AdamWConfig::new().build(), config.clone());
    let folder = tempfile::tempdir().unwrap();
    let (model_file, optim_file) =
        (folder.path().join("model.bpk"), folder.path().join("optim.bpk"));

    let (mut model, mut optim) = blast().attach(Net::new(&device)).unwrap();
    for at in 1..=60 {
        (model, _) = step(model, &mut optim, at, 3e-3, &device);
        if at == save_at {
            io::save(&model, &model_file).unwrap();
            io::save_optimizer(&optim, &optim_file).unwrap();
        }
    }
    let unbroken = fingerprint(&model, &optim);

    device.seed(99);
    let fresh = io::load(Net::new(&device), &model_file).unwrap();
    let (mut model, optim) = blast().attach(fresh).unwrap();
    let mut optim = io::load_optimizer(optim, &model, &optim_file).unwrap();
    for at in save_at + 1..=60 {
        (model, _) = step(model, &mut optim, at, 3e-3, &device);
    }
    let resumed = fingerprint(&model, &optim);
    assert!(unbroken.0 == resumed.0, "weights or pattern, saved at {save_at}");
    assert!(unbroken.1 == resumed.1, "optimizer state, saved at {save_at}");
}

#[test]
fn a_resumed_run_is_bitwise_the_unbroken_one() {
    let config = BlastConfig::new(60).with_sparsity(0.75).with_interval(10);
    // 29 and 41 are one step ahead of an update: the armed probe must survive.
    for save_at in [33, 29, 30, 41] {
        resumes_bitwise(config.clone(), save_at);
    }
}

#[test]
fn a_resumed_run_with_movement_scores_is_bitwise_the_unbroken_one() {
    let config = BlastConfig::new(60).with_sparsity(0.75).with_interval(10);
    resumes_bitwise(config.with_score(Score::Movement), 33);
}

#[test]
fn a_resumed_run_with_a_global_budget_is_bitwise_the_unbroken_one() {
    let config = BlastConfig::new(60).with_sparsity(0.75).with_interval(10);
    let config = config.with_budget(Budget::Global { min_density: 0.1, max_density: 0.9 });
    // 39 is where the scores of the update at 42 are gathered.
    for save_at in [33, 38, 39, 40, 41] {
        resumes_bitwise(config.clone(), save_at);
    }
}

#[test]
fn the_ledger_has_a_line_for_every_layer_and_update() {
    let device = Device::flex().autodiff();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let config = config(40);
    let run = |steps: usize| {
        let blast = Blast::new(AdamWConfig::new().build(), config.clone());
        let blast = blast.with_ledger(&path).unwrap();
        let (model, mut optim) = blast.attach(Net::new(&device)).unwrap();
        train(model, &mut optim, steps, &device);
    };
    run(40);
    let first = std::fs::read_to_string(&path).unwrap();
    let updates = (1..=40).filter(|&step| config.is_update(step)).count();
    assert_eq!(first.lines().count(), 2 * updates);
    for line in first.lines() {
        let line: burn_blast::prune::LayerSnapshot = serde_json::from_str(line).unwrap();
        assert_eq!(line.survivors + line.regrown, line.kept);
        assert!(line.step == 5 || line.bytes < line.dense_bytes);
    }
    // The same steps again replace their lines.
    run(40);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
    let blast = Blast::new(AdamWConfig::new().build(), config.clone());
    let error = blast.with_ledger(folder.path().join("no/run.jsonl")).unwrap_err().to_string();
    assert!(error.starts_with("the run ledger ") && error.contains("cannot be written"), "{error}");
}

/// A student with growth must find which blocks a sparse teacher has.
fn found(growth: Growth) -> f64 {
    let device = Device::flex().autodiff();
    let teacher = BlockSparseLinearConfig::new(128, 128)
        .with_block_size(16)
        .with_sparsity(0.75)
        .with_seed(5)
        .with_bias(false)
        .init(&device);
    let hidden = BlockMask::from(teacher.pattern());
    // The student starts sparse too, on other blocks: without growth it can only stay there.
    let student = BlockSparseLinearConfig::new(128, 128)
        .with_block_size(16)
        .with_sparsity(0.75)
        .with_seed(6)
        .with_bias(false)
        .init(&device);
    let config = BlastConfig::new(300)
        .with_sparsity(0.75)
        .with_schedule(Schedule::Constant)
        .with_interval(10)
        .with_growth(growth);
    let (mut student, mut optim) =
        Blast::new(AdamWConfig::new().build(), config).attach(student).unwrap();
    for at in 0..300 {
        let x = tensor::<2>(&numbers(64 * 128, 1000 + at), [64, 128], &device, DType::F32);
        let target = teacher.forward(x.clone()).detach();
        let loss = (student.forward(x) - target).square().mean();
        let grads = GradientsParams::from_grads(loss.backward(), &student);
        student = optim.step(1e-2, student, grads);
    }
    let kept = BlockMask::from(student.pattern());
    kept.intersection(&hidden).count() as f64 / hidden.count() as f64
}

#[test]
fn growth_finds_the_hidden_mask_of_a_teacher() {
    let (with, without) = (found(Growth::Gradient), found(Growth::None));
    println!("blocks of the teacher found: {with} with growth, {without} without");
    assert!(with >= 0.95, "{with}");
    assert!(with > without);
}
