//! Two small layers, a task with structure, and a training loop.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::{DType, Device, Tensor};
use burn_blast::module::BlockSparseLinear;
use burn_blast::prune::{Blast, BlastConfig, BlockOptimizer, Monitor};
use burn_blast::tuning::Strategy;

use super::{bits, cast, descend, numbers, tensor};

pub const D: usize = 64;
pub const BLOCK: usize = 8;

#[derive(Module, Debug)]
pub struct Net {
    pub a: BlockSparseLinear,
    pub b: BlockSparseLinear,
}

impl Net {
    /// First weights come from their own generator: a device's is shared by every test of the process.
    pub fn new(device: &Device) -> Self {
        let layer = |seed| {
            let weight: Vec<f32> =
                numbers(D * D, seed).iter().map(|w| w / (D as f32).sqrt()).collect();
            let linear = Linear {
                weight: Param::from_tensor(tensor(&weight, [D, D], device, DType::F32)),
                bias: Some(Param::from_tensor(Tensor::zeros([D], device))),
            };
            let layer = BlockSparseLinear::from_linear(&linear, BLOCK).unwrap();
            layer.with_strategy(Strategy::Sparse)
        };
        Self { a: layer(1001), b: layer(1002) }
    }

    /// In bf16. Cast without autodiff: a cast is an operation, and its result no parameter.
    pub fn half() -> Self {
        cast(Self::new(&Device::flex()), DType::BF16).train()
    }

    /// Values, biases and patterns as bits.
    pub fn content(&self) -> Vec<Vec<u32>> {
        let layer = |layer: &BlockSparseLinear| {
            [
                bits(layer.weight.values()),
                bits(layer.bias.as_ref().unwrap().val()),
                layer.pattern().row_idx().to_vec(),
                layer.pattern().col_ptr().to_vec(),
            ]
        };
        [layer(&self.a), layer(&self.b)].concat()
    }

    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.b.forward(self.a.forward(x).tanh())
    }
}

/// Inputs and targets of a step: a pure function of the step.
pub fn batch(step: usize, device: &Device) -> (Tensor<2>, Tensor<2>) {
    let x = numbers(16 * D, step as u64);
    // A target with structure: a rotation of the inputs, so that some blocks matter more.
    let y: Vec<f32> = (0..16 * D).map(|at| 0.8 * x[at / D * D + (at * 3 + 1) % D]).collect();
    (tensor(&x, [16, D], device, DType::F32), tensor(&y, [16, D], device, DType::F32))
}

pub fn step(
    model: Net,
    optim: &mut ModuleOptimizer,
    at: usize,
    lr: f64,
    device: &Device,
) -> (Net, f32) {
    let (x, y) = batch(at, device);
    let output = model.forward(x.cast(model.a.weight.dtype())).cast(DType::F32);
    let loss = (output - y).square().mean();
    (descend(model, optim, lr, &loss), loss.into_scalar())
}

/// The model with an AdamW that prunes it.
pub fn attach(config: BlastConfig, device: &Device) -> (Net, ModuleOptimizer) {
    Blast::new(AdamWConfig::new().build(), config).attach(Net::new(device)).unwrap()
}

pub fn config(steps: usize) -> BlastConfig {
    BlastConfig::new(steps).with_sparsity(0.75).with_interval(5).with_end_fraction(0.8)
}

pub fn train(
    mut model: Net,
    optim: &mut ModuleOptimizer,
    steps: usize,
    device: &Device,
) -> (Net, f32) {
    let mut last = 0.0;
    for at in 1..=steps {
        (model, last) = step(model, optim, at, 3e-3, device);
    }
    (model, last)
}

pub fn run<O: BlockOptimizer>(
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
