//! Layers that share features select their blocks together.

mod common;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{DType, Device, Tensor};
use burn_blast::module::{
    BlockSparseGatedMlp, BlockSparseGatedMlpConfig, BlockSparseLinear, BlockSparseLinearConfig,
    BlockSparseMlp, BlockSparseMlpConfig,
};
use burn_blast::prune::{
    Blast, BlastConfig, Budget, Coupling, Growth, LinearRule, Monitor, Score, Structure,
};
use burn_blast::{BlockPattern, io};

const STEPS: usize = 32;
const WIDTH: usize = 32;

/// A gated block, a two-layer block, and layers that only a rule couples.
#[derive(Module, Debug)]
struct Net {
    gated: BlockSparseGatedMlp,
    plain: BlockSparseMlp,
    wide: BlockSparseLinear,
    narrow: BlockSparseLinear,
}

impl Net {
    fn new(device: &Device) -> Self {
        device.seed(5);
        let linear = |d_input, d_output, block| {
            BlockSparseLinearConfig::new(d_input, d_output).with_block_size(block).init(device)
        };
        Self {
            gated: BlockSparseGatedMlpConfig::new(WIDTH, 72).with_block_size(8).init(device),
            plain: BlockSparseMlpConfig::new(WIDTH, 64).with_block_size(8).init(device),
            wide: linear(WIDTH, 64, 8),
            narrow: linear(64, WIDTH, 16),
        }
    }

    fn loss(&self, x: Tensor<2>) -> Tensor<1> {
        let y = self.plain.forward(self.gated.forward(x.clone()) + x.clone()) + x.clone();
        let y = self.narrow.forward(self.wide.forward(y).tanh());
        (y - x.roll(&[1], &[1])).powf_scalar(2.0).mean()
    }
}

fn config() -> BlastConfig {
    let rule = Coupling {
        path: String::new(),
        into: vec!["wide".into()],
        out: vec!["narrow".into()],
        groups: None,
    };
    BlastConfig::new(STEPS)
        .with_sparsity(0.8)
        .with_interval(5)
        .with_structure(Structure::Coupled)
        .with_couplings(vec![rule])
}

fn step(net: Net, optimizer: &mut ModuleOptimizer, at: usize, device: &Device) -> Net {
    let x = common::numbers(16 * WIDTH, at as u64);
    let x = common::tensor::<2>(&x, [16, WIDTH], device, DType::F32);
    let grads = GradientsParams::from_grads(net.loss(x).backward(), &net);
    optimizer.step(1e-2, net, grads)
}

fn attach(config: BlastConfig, net: Net) -> (Monitor, Net, ModuleOptimizer) {
    let blast = Blast::new(AdamWConfig::new().build(), config);
    let monitor = blast.monitor();
    let (net, optimizer) = blast.attach(net).unwrap();
    (monitor, net, optimizer)
}

/// Groups of `block` features that a pattern has blocks for.
fn living(pattern: &BlockPattern, by_rows: bool, block: usize) -> Vec<bool> {
    let (shape, side) = (pattern.shape(), pattern.block().get());
    let width = if by_rows { shape.rows() } else { shape.cols() };
    let mut living = vec![false; width.div_ceil(block)];
    for (row, col) in pattern.blocks() {
        living[(if by_rows { row } else { col }) * side / block] = true;
    }
    living
}

fn assert_nothing_is_wasted(net: &Net, context: &str) {
    let Net { gated, plain, wide, narrow } = net;
    let down = living(gated.down.pattern(), true, 8);
    assert_eq!(living(gated.gate.pattern(), false, 8), down, "{context}");
    assert_eq!(living(gated.up.pattern(), false, 8), down, "{context}");
    let (up, down) = (living(plain.up.pattern(), false, 8), living(plain.down.pattern(), true, 8));
    assert_eq!(up, down, "{context}");
    // Blocks of 8 and of 16: a group is a block of 16.
    let (into, out) = (living(wide.pattern(), false, 16), living(narrow.pattern(), true, 16));
    assert_eq!(into, out, "{context}");
}

#[test]
fn no_update_leaves_a_wasted_block_and_counts_are_exact() {
    let device = Device::flex().autodiff();
    let global = Budget::Global { min_density: 0.1, max_density: 1.0 };
    for config in [
        config(),
        config().with_growth(Growth::Random),
        config().with_growth(Growth::None),
        config().with_budget(global),
        config().with_group_density(0.4),
        config().with_structure(Structure::Groups),
        config().with_score(Score::Movement),
        config().with_score(Score::Saliency).with_growth(Growth::None),
    ] {
        let context = config.to_string();
        let (monitor, mut net, mut optimizer) = attach(config.clone(), Net::new(&device));
        for at in 1..=STEPS {
            net = step(net, &mut optimizer, at, &device);
            if !config.is_update(at) {
                continue;
            }
            assert_nothing_is_wasted(&net, &format!("step {at} of {context}"));
            if config.budget == Budget::Uniform && config.structure != Structure::Groups {
                for layer in monitor.snapshot().layers {
                    let share = 1.0 - config.sparsity_at(at, 0.0, 0.8);
                    let exact = (share * layer.blocks as f64).round() as usize;
                    assert_eq!(layer.kept, exact, "{} at step {at} of {context}", layer.name);
                }
            }
        }
        let sparsity = monitor.snapshot().sparsity;
        // Whole groups are few in layers as small as these.
        assert!((sparsity - 0.8).abs() < 0.05, "{sparsity} of {context}");
    }
}

#[test]
fn layers_whose_partner_is_frozen_select_alone_by_their_gradients() {
    let device = Device::flex().autodiff();
    let mut start = Net::new(&device);
    start.gated.gate = start.gated.gate.no_grad();
    let run = |growth| {
        let config = config().with_growth(growth).with_growth_fraction(1.0);
        let (_, mut net, mut optimizer) = attach(config, start.clone());
        (1..=STEPS).for_each(|at| net = step(net.clone(), &mut optimizer, at, &device));
        net.gated
    };
    let [grown, pruned] = [Growth::Gradient, Growth::None].map(run);
    assert_eq!(grown.gate.sparsity(), 0.0);
    assert!((grown.up.sparsity() - 0.8).abs() < 0.02, "{}", grown.up.sparsity());
    // Without gradients both would be one run.
    let values = |net: &BlockSparseGatedMlp| common::bits(net.up.weight.values());
    assert_ne!(values(&grown), values(&pruned));
}

#[test]
fn whole_groups_become_narrower_layers_with_the_same_outputs() {
    let device = Device::flex().autodiff();
    let config = config().with_structure(Structure::Groups);
    let (_, mut net, mut optimizer) = attach(config, Net::new(&device));
    for at in 1..=STEPS {
        net = step(net, &mut optimizer, at, &device);
    }
    let compact = net.gated.compact();
    // 2 of 9 groups of 8 features: all that is left, and dense.
    assert_eq!(compact.gate.pattern().shape().cols(), 16);
    assert_eq!(compact.up.sparsity(), 0.0);
    let x = common::tensor::<2>(&common::numbers(4 * WIDTH, 3), [4, WIDTH], &device, DType::F32);
    let (one, other) = (net.gated.forward(x.clone()), compact.forward(x));
    let off = common::distance(&common::floats(one), &common::floats(other));
    assert!(off < 1e-5, "{off}");
}

#[test]
fn plain_linear_layers_are_coupled_by_a_rule_with_heads() {
    #[derive(Module, Debug)]
    struct Attention {
        q: burn::nn::Linear,
        k: burn::nn::Linear,
        o: burn::nn::Linear,
    }
    let device = Device::flex().autodiff();
    device.seed(1);
    // Four heads of 16 features share two key heads.
    let linear = |d_input, d_output| burn::nn::LinearConfig::new(d_input, d_output).init(&device);
    let net = Attention { q: linear(WIDTH, 64), k: linear(WIDTH, 32), o: linear(64, WIDTH) };
    let rule = Coupling {
        path: String::new(),
        into: vec!["q".into(), "k".into()],
        out: vec!["o".into()],
        groups: Some(2),
    };
    let linear = |path: &str| LinearRule { path: path.into(), block_size: 8 };
    let config = BlastConfig::new(STEPS)
        .with_sparsity(0.5)
        .with_interval(5)
        .with_structure(Structure::Groups)
        .with_couplings(vec![rule])
        .with_linear(vec![linear("q"), linear("k"), linear("o")]);
    let blast = Blast::new(AdamWConfig::new().build(), config);
    let (mut net, mut optimizer) = blast.attach(net).unwrap();
    for at in 1..=STEPS {
        let x = common::numbers(16 * WIDTH, at as u64);
        let x = common::tensor::<2>(&x, [16, WIDTH], &device, DType::F32);
        let k = net.k.forward(x.clone());
        let y = net.o.forward(net.q.forward(x.clone()) * Tensor::cat(vec![k.clone(), k], 1));
        let grads = GradientsParams::from_grads((y - x).powf_scalar(2.0).mean().backward(), &net);
        net = optimizer.step(1e-2, net, grads);
    }
    let zeros = |layer: &burn::nn::Linear, by_rows: bool| {
        let [rows, cols] = layer.weight.dims();
        let weight = common::floats(layer.weight.val());
        let width = if by_rows { rows } else { cols };
        let mut zero = [true; 2];
        for (at, weight) in weight.into_iter().enumerate() {
            let feature = if by_rows { at / cols } else { at % cols };
            zero[feature * 2 / width] &= weight == 0.0;
        }
        zero
    };
    let dropped = zeros(&net.o, true);
    assert_eq!(dropped.iter().filter(|zero| **zero).count(), 1);
    assert_eq!((zeros(&net.q, false), zeros(&net.k, false)), (dropped, dropped));
}

#[test]
fn a_resumed_run_of_coupled_layers_is_bitwise_the_unbroken_one() {
    let device = Device::flex().autodiff();
    let folder = tempfile::tempdir().unwrap();
    let (model, state) = (folder.path().join("model.bpk"), folder.path().join("state.bpk"));
    let bits = |net: &Net| {
        let layers = [&net.gated.gate, &net.gated.up, &net.gated.down, &net.plain.up, &net.wide];
        layers.map(|layer| (layer.pattern().clone(), common::bits(layer.weight.values())))
    };
    // Rankings are gathered at 12, resolved at 13 or 14, and applied at 15.
    for save_at in 11..=15 {
        let (_, mut net, mut optimizer) = attach(config(), Net::new(&device));
        for at in 1..=STEPS {
            net = step(net, &mut optimizer, at, &device);
            if at == save_at {
                io::save(&net, &model).unwrap();
                io::save_optimizer(&optimizer, &state).unwrap();
            }
        }
        let unbroken = bits(&net);
        let fresh = io::load(Net::new(&device), &model).unwrap();
        let (_, mut net, optimizer) = attach(config(), fresh);
        let mut optimizer = io::load_optimizer(optimizer, &net, &state).unwrap();
        for at in save_at + 1..=STEPS {
            net = step(net, &mut optimizer, at, &device);
        }
        assert!(unbroken == bits(&net), "saved at {save_at}");
    }
}

#[test]
fn what_cannot_be_coupled_is_refused() {
    let device = Device::flex();
    let refusal = |config: BlastConfig| {
        let blast = Blast::new(AdamWConfig::new().build(), config);
        blast.attach(Net::new(&device)).map(|_| ()).unwrap_err().to_string()
    };
    let rule = |into: &str, out: &str, groups| {
        let (path, into, out) = (String::new(), vec![into.into()], vec![out.into()]);
        config().with_couplings(vec![Coupling { path, into, out, groups }])
    };
    for (config, phrase) in [
        (rule("broad", "narrow", None), "no module in \"\""),
        (rule("wide", "gated.gate", None), "64 as \"wide\" has"),
        (rule("wide", "narrow", Some(3)), "groups of whole blocks"),
        (rule("gated.up", "gated.down", None), "in two couplings"),
        (config().with_tied(vec!["gated".into()]), "tied"),
        (config().with_interval(3), "interval"),
        (config().with_group_density(0.1), "group_density"),
        (config().with_structure(Structure::Groups).with_group_density(0.5), "group_density"),
        (rule("wide", "wide", Some(4)), "in two couplings"),
        (config().with_structure(Structure::Blocks), "couplings"),
    ] {
        let refusal = refusal(config);
        assert!(refusal.contains(phrase), "{refusal}");
    }
}
