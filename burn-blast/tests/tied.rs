//! Layers that keep the same blocks.

mod common;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Tensor};
use burn_blast::module::{BlockSparseGatedMlp, BlockSparseGatedMlpConfig};
use burn_blast::prune::{Blast, BlastConfig, Budget, LayerRule};

const STEPS: usize = 24;

#[derive(Module, Debug)]
struct Net {
    first: BlockSparseGatedMlp,
    second: BlockSparseGatedMlp,
}

impl Net {
    fn new(device: &Device) -> Self {
        let mlp = |seed| {
            BlockSparseGatedMlpConfig::new(32, 64)
                .with_block_size(8)
                .with_sparsity(0.0)
                .with_seed(seed)
                .init(device)
        };
        Self { first: mlp(1), second: mlp(2) }
    }

    fn loss(&self, x: Tensor<2>) -> Tensor<1> {
        let y = self.second.forward(self.first.forward(x.clone()));
        (y - x.tanh()).powf_scalar(2.0).mean()
    }
}

fn config() -> BlastConfig {
    BlastConfig::new(STEPS).with_sparsity(0.75).with_interval(4).with_tied(vec!["first".into()])
}

fn refusal(config: BlastConfig) -> String {
    let net = Net::new(&Device::flex().autodiff());
    let attached = Blast::new(AdamWConfig::new().build(), config).attach(net);
    attached.map(|_| ()).expect_err("the settings are wrong").to_string()
}

#[test]
fn tied_layers_keep_the_same_blocks_from_the_first_update_on() {
    for engine in common::engines() {
        let device = engine.device.autodiff();
        // A target of its own for the follower does not count: it takes the leader's blocks.
        let config =
            config().with_layers(vec![LayerRule { path: "first.up".into(), sparsity: 0.1 }]);
        let blast = Blast::new(AdamWConfig::new().build(), config);
        let monitor = blast.monitor();
        let (mut net, mut optimizer) = blast.attach(Net::new(&device)).unwrap();
        let mut changes = 0;
        for step in 1..=STEPS {
            let x = common::numbers(16 * 32, step as u64);
            let x = common::tensor::<2>(&x, [16, 32], &device, burn::tensor::DType::F32);
            let before = net.first.up.pattern().clone();
            let grads = GradientsParams::from_grads(net.loss(x).backward(), &net);
            net = optimizer.step(1e-2, net, grads);
            assert_eq!(net.first.gate.pattern(), net.first.up.pattern(), "step {step}");
            changes += usize::from(*net.first.up.pattern() != before);
        }
        assert!(changes >= 3, "{changes}");
        assert_ne!(net.second.gate.pattern(), net.second.up.pattern());
        let layers = monitor.snapshot().layers;
        for layer in &layers {
            assert_eq!((layer.kept, layer.step > 0), (layer.blocks / 4, true), "{}", layer.name);
        }
    }
}

#[test]
fn what_cannot_be_tied_is_refused() {
    let tied = |path: &str| config().with_tied(vec![path.into()]);
    assert!(refusal(tied("third")).contains("\"third\" matches no layer"));
    assert!(refusal(tied("first.down")).contains("no two layers in \"first.down\" can be tied"));
    assert!(refusal(config().with_dense(vec!["first.gate".into()])).contains("can be tied"));
    let global = Budget::Global { min_density: 0.05, max_density: 1.0 };
    assert!(refusal(config().with_budget(global)).contains("empty with a global budget"));
}
