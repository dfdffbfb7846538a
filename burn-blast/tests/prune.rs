//! Pruning in a training loop: curves, counts, moments, exemptions, refusals, the ledger.

mod common;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{
    AdaGradConfig, AdamConfig, AdamWConfig, AdanConfig, LambConfig, LionConfig, ModuleOptimizer,
    RmsPropConfig, SgdConfig, momentum::MomentumConfig,
};
use burn::tensor::{Device, Tensor, TensorData};
use burn_blast::module::BlockSparseLinear;
use burn_blast::prune::{
    Blast, BlastConfig, BlastError, BlockOptimizer, Budget, Growth, KeepRule, LayerRule,
    LinearRule, Schedule, Score,
};
use burn_blast::{BlockMask, io};
use common::toy::{BLOCK, D, Net, attach, batch, config, run, step, train};
use common::{descend, engines, floats};

/// The toy model with dense layers.
#[derive(Module, Debug)]
struct Plain {
    a: Linear,
    b: Linear,
}

impl Plain {
    fn loss(&self, at: usize, device: &Device) -> Tensor<1> {
        let (x, y) = batch(at, device);
        (self.b.forward(self.a.forward(x).tanh()) - y).square().mean()
    }
}

#[test]
fn without_sparsity_training_equals_linear_layers() {
    for engine in engines().into_iter().filter(|engine| !engine.slow) {
        let device = engine.device.clone().autodiff();
        let sparse = Net::new(&device);
        let mut dense =
            Plain { a: sparse.a.clone().into_linear(), b: sparse.b.clone().into_linear() };
        let config = config(200).with_sparsity(0.0).with_growth(Growth::None);
        let blast = Blast::new(AdamWConfig::new().build(), config);
        let (mut sparse, mut optim) = blast.attach(sparse).unwrap();
        let mut dense_optim: ModuleOptimizer = AdamWConfig::new().init();
        for at in 1..=200 {
            let loss;
            (sparse, loss) = step(sparse, &mut optim, at, 1e-3, &device);
            let dense_loss = dense.loss(at, &device);
            dense = descend(dense, &mut dense_optim, 1e-3, &dense_loss);
            let value = dense_loss.into_scalar::<f32>();
            let off = (loss - value).abs();
            assert!(off < 1e-5, "{} step {at}: {loss} and {value}", engine.name);
        }
    }
}

#[test]
fn requested_reported_and_stored_sparsity_are_equal() {
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
                assert_eq!(line.survivors + line.added, line.kept);
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
    fn check<O: BlockOptimizer>(name: &str, inner: O) {
        let (model, _, loss) = run(inner, config(30), 30, &Device::flex().autodiff());
        assert_eq!(model.a.sparsity(), 0.75, "{name}");
        assert!(loss.is_finite(), "{name}");
    }
    let momentum = MomentumConfig::new().with_momentum(0.9);
    check("adam", AdamConfig::new().build());
    check("adamw", AdamWConfig::new().with_amsgrad(true).build());
    check("sgd", SgdConfig::new().build());
    check("sgd with momentum", SgdConfig::new().with_momentum(Some(momentum)).build());
    check("lion", LionConfig::new().build());
    check("rmsprop", RmsPropConfig::new().with_centered(true).build());
    check("rmsprop with momentum", RmsPropConfig::new().with_momentum(0.9).build());
    check("adan", AdanConfig::new().build());
    check("adagrad", AdaGradConfig::new().build());
    check("lamb", LambConfig::new().build());
}

#[test]
fn every_schedule_score_rule_and_budget_lands_on_target() {
    let device = Device::flex().autodiff();
    let global = Budget::Global { min_density: 0.1, max_density: 0.6 };
    let configs = [
        config(40).with_schedule(Schedule::Linear),
        config(40).with_schedule(Schedule::Step),
        config(40).with_schedule(Schedule::Constant),
        config(40).with_schedule(Schedule::Cyclic { cycles: 2 }),
        config(40).with_score(Score::Saliency),
        config(40).with_score(Score::Movement),
        config(40).with_score(Score::Taylor),
        config(40).with_score(Score::Fisher),
        config(40).with_budget(global).with_score(Score::Fisher),
        config(40).with_keep(KeepRule::Union),
        config(40).with_keep(KeepRule::Union).with_schedule(Schedule::Step),
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
    let rules = || vec![LayerRule { path: "a".into(), sparsity: 0.5 }];
    let global = Budget::Global { min_density: 0.0, max_density: 1.0 };
    for (config, expected) in [
        (config(40).with_layers(rules()), (0.5, 0.75)),
        (config(40).with_layers(rules()).with_budget(global), (0.5, 0.75)),
        (config(40).with_dense(vec!["a".into()]), (0.0, 0.75)),
        (config(40).with_dense_last_linears(1), (0.75, 0.0)),
    ] {
        let (model, monitor, _) = run(AdamWConfig::new().build(), config, 40, &device);
        assert_eq!((model.a.sparsity(), model.b.sparsity()), expected);
        // Layers that are kept dense are not counted.
        let counted = if expected == (0.5, 0.75) { 0.625 } else { 0.75 };
        assert_eq!(monitor.snapshot().sparsity, counted);
    }
}

#[test]
fn a_setup_that_does_nothing_is_refused() {
    let device = Device::flex();
    let refusal = |config: BlastConfig| {
        let blast = Blast::new(AdamWConfig::new().build(), config);
        blast.attach(Net::new(&device)).map(|_| ()).unwrap_err()
    };
    let no_match = |config: BlastConfig, path: &str| {
        let error = refusal(config);
        let BlastError::FilterMatchesNothing { filter, layers } = &error else { panic!("{error}") };
        assert_eq!((filter.as_str(), layers.as_str()), (path, "a, b"));
        assert!(error.to_string().contains("matches no layer"), "{error}");
    };
    no_match(config(40).with_dense(vec!["layers.3".into()]), "layers.3");
    let rule = LinearRule { path: "c".into(), block_size: 8 };
    no_match(config(40).with_linear(vec![rule]), "c");
    let error = refusal(config(40).with_dense_last_linears(2)).to_string();
    assert!(error.contains("nothing left to prune"), "{error}");
    let blast = Blast::new(SgdConfig::new().build(), config(40).with_score(Score::Fisher));
    let error = blast.attach(Net::new(&device)).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("score is Fisher, but must be another one"), "{error}");
    let dense = LinearConfig::new(8, 8).init(&device);
    let blast = Blast::new(AdamWConfig::new().build(), config(40));
    let error = blast.attach(dense).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("BlastConfig::with_linear for plain nn::Linear"), "{error}");
}

#[test]
fn one_blast_serves_one_model() {
    let device = Device::flex();
    let blast = Blast::new(AdamWConfig::new().build(), config(40));
    assert!(blast.clone().attach(Net::new(&device)).is_ok());
    let error = blast.attach(Net::new(&device)).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("build one for each model"), "{error}");
}

#[test]
fn an_old_clone_keeps_its_own_blocks() {
    let device = Device::flex().autodiff();
    let (model, mut optim) = attach(config(40), &device);
    let old = model.clone();
    let before = floats(old.a.to_dense());
    let (model, _) = train(model, &mut optim, 40, &device);
    assert_eq!(old.a.sparsity(), 0.0);
    assert_eq!(floats(old.a.to_dense()), before);
    assert_eq!(model.a.sparsity(), 0.75);
}

#[test]
fn a_frozen_layer_is_left_alone_and_the_other_is_pruned() {
    let device = Device::flex().autodiff();
    let mut net = Net::new(&device);
    net.a = net.a.freeze();
    let blast = Blast::new(AdamWConfig::new().build(), config(40));
    let (model, mut optim) = blast.attach(net).unwrap();
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

/// After a step with known gradients, a kept block must have the same moments as before.
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
        let mut parts = tensors.into_iter().map(|tensor| tensor.into_parts().unwrap());
        let found = parts.find(|(name, ..)| name.starts_with(&id) && name.ends_with("momentum"));
        let (_, dtype, shape, _, bytes) = found.unwrap();
        let data = TensorData::from_bytes(bytes, shape, dtype);
        let packed: Vec<f32> = data.iter::<f32>().collect();
        burn_blast_kernels::pack::unpack(&packed, model.a.pattern())
    };
    // Lion's momentum after a step is 0.99 of the old plus 0.01 of the gradient; with a loss of zero weight the
    // gradient is zero, so only the move between blocks can change anything but that factor.
    let config = config(20).with_growth(Growth::Random);
    let blast = Blast::new(LionConfig::new().build(), config);
    let (mut model, mut optim) = blast.attach(Net::new(&device)).unwrap();
    (model, _) = step(model, &mut optim, 1, 1e-3, &device);
    let start = moments(&optim, &model);
    let mut always_kept = BlockMask::from(model.a.pattern());
    for at in 2..=20 {
        let (x, _) = batch(at, &device);
        let loss = model.forward(x).mul_scalar(0.0).sum();
        model = descend(model, &mut optim, 0.0, &loss);
        always_kept = always_kept.intersection(&BlockMask::from(model.a.pattern()));
    }
    assert_eq!(model.a.sparsity(), 0.75);
    let factor = 0.99_f32.powi(19);
    for (at, (&now, &was)) in moments(&optim, &model).iter().zip(&start).enumerate() {
        let kept = always_kept.get(at / D / BLOCK, at % D / BLOCK);
        let want = if kept { factor * was } else { 0.0 };
        assert!((now - want).abs() <= 1e-4 * was.abs(), "[{at}]: {now}, not {want}");
    }
}

#[test]
#[should_panic(expected = "this block-sparse weight is unknown to the optimizer")]
fn a_layer_added_after_attaching_is_noticed() {
    let device = Device::flex().autodiff();
    let (_, mut optim) = attach(config(40), &device);
    step(Net::new(&device), &mut optim, 1, 1e-3, &device);
}

/// With a learning rate of zero only the pattern changes, so every kept block must keep its values.
#[test]
fn kept_blocks_keep_their_values_and_new_ones_start_at_zero() {
    let device = Device::flex().autodiff();
    let inner = AdamWConfig::new().with_weight_decay(0.0).build();
    let (mut model, mut optim) = Blast::new(inner, config(40)).attach(Net::new(&device)).unwrap();
    let start = floats(model.a.to_dense());
    let mut always_kept = BlockMask::from(model.a.pattern());
    for at in 1..=40 {
        (model, _) = step(model, &mut optim, at, 0.0, &device);
        always_kept = always_kept.intersection(&BlockMask::from(model.a.pattern()));
        for (at, (&now, &was)) in floats(model.a.to_dense()).iter().zip(&start).enumerate() {
            let kept = always_kept.get(at / D / BLOCK, at % D / BLOCK);
            let want = if kept { was } else { 0.0 };
            assert_eq!(now, want);
        }
    }
}

/// At a learning rate of zero, added blocks stay zero: the worst of all.
#[test]
fn a_block_in_its_grace_time_is_not_dropped() {
    const GRACE: usize = 12;
    let device = Device::flex().autodiff();
    let youngest_dropped = |grace| {
        let config = config(40).with_schedule(Schedule::Constant).with_growth(Growth::Random);
        let config = config.with_growth_fraction(0.5).with_grace(grace);
        let (mut model, mut optim) = attach(config, &device);
        let (mut before, mut added_at) = (BlockMask::from(model.a.pattern()), [0; 64]);
        let mut youngest = usize::MAX;
        for at in 1..=40 {
            (model, _) = step(model, &mut optim, at, 0.0, &device);
            let now = BlockMask::from(model.a.pattern());
            now.difference(&before).indices().for_each(|block| added_at[block] = at);
            for block in before.difference(&now).indices().filter(|&block| added_at[block] > 0) {
                youngest = youngest.min(at - added_at[block]);
            }
            before = now;
        }
        youngest
    };
    assert_eq!(youngest_dropped(0), 5);
    let youngest = youngest_dropped(GRACE);
    assert!((GRACE..usize::MAX).contains(&youngest), "{youngest}");
}

#[test]
fn the_learning_rate_follows_the_density() {
    let device = Device::flex().autodiff();
    let moves = |lr_exponent: f64, dense: bool| {
        let config = config(10).with_schedule(Schedule::Step).with_growth(Growth::None);
        let config = config.with_lr_exponent(lr_exponent);
        let config = if dense { config.with_sparsity(0.0) } else { config };
        let blast = Blast::new(SgdConfig::new().build(), config);
        let (mut model, mut optim) = blast.attach(Net::new(&device)).unwrap();
        for at in 1..=5 {
            (model, _) = step(model, &mut optim, at, 0.0, &device);
        }
        let before = floats(model.b.to_dense());
        (model, _) = step(model, &mut optim, 6, 1.0, &device);
        let moved = floats(model.b.to_dense());
        moved.iter().zip(&before).map(|(now, before)| now - before).collect::<Vec<f32>>()
    };
    for (dense, factor) in [(true, 1.0), (false, 4.0)] {
        let (fixed, scaled) = (moves(0.0, dense), moves(1.0, dense));
        assert!(fixed.iter().any(|moved| moved.abs() > 1e-4));
        for (fixed, scaled) in fixed.iter().zip(&scaled) {
            assert!((scaled - factor * fixed).abs() < 1e-6, "{scaled} and {fixed}");
        }
    }
}

#[test]
fn a_plain_linear_layer_is_pruned_in_place() {
    for engine in engines() {
        let device = engine.device.clone().autodiff();
        let steps = if engine.slow { 10 } else { 40 };
        let layer = || LinearConfig::new(D, D).init(&device);
        let model = Plain { a: layer(), b: layer() };
        let rule = LinearRule { path: "a".into(), block_size: BLOCK };
        let blast = Blast::new(AdamWConfig::new().build(), config(steps).with_linear(vec![rule]));
        let monitor = blast.monitor();
        let (mut model, mut optim) = blast.attach(model).unwrap();
        for at in 1..=steps {
            let loss = model.loss(at, &device);
            model = descend(model, &mut optim, 1e-3, &loss);
        }
        let packed = BlockSparseLinear::from_linear(&model.a, BLOCK).unwrap();
        // A block grown at the very last update is zero still, and counts as kept.
        assert_eq!(monitor.snapshot().sparsity, 0.75);
        assert!(packed.sparsity() >= 0.75, "{} on {}", packed.sparsity(), engine.name);
        let untouched = BlockSparseLinear::from_linear(&model.b, BLOCK).unwrap();
        assert_eq!(untouched.sparsity(), 0.0);
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
        assert_eq!(line.survivors + line.added, line.kept);
        assert!(line.step == 5 || line.bytes < line.dense_bytes);
    }
    // The same steps again replace their lines.
    run(40);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
    let blast = Blast::new(AdamWConfig::new().build(), config.clone());
    let error = blast.with_ledger(folder.path().join("no/run.jsonl")).unwrap_err().to_string();
    assert!(error.starts_with("the run ledger ") && error.contains("cannot be written"), "{error}");
}
