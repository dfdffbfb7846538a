//! The fused feed-forward blocks on every backend: values and gradients equal the dense block and the single layers.

mod common;

use burn::module::Module;
use burn::nn::LinearConfig;
use burn::optim::GradientsParams;
use burn::tensor::activation::{relu, silu};
use burn::tensor::{DType, Device, Tensor};
use burn_blast::BlockPattern;
use burn_blast::functions::{GatedPatterns, MlpPatterns, gated_mlp, mlp, unpack};
use burn_blast::module::{
    BlockSparseGatedMlp, BlockSparseGatedMlpConfig, BlockSparseLinear, BlockSparseMlp,
    BlockSparseMlpConfig, MlpActivation,
};
use common::{distance, dtypes, engines, floats, numbers, tensor, uniform};

/// A block of two layers with biases, or a gated block without.
enum Block {
    Plain(MlpPatterns),
    Gated(GatedPatterns),
}

/// The input of a block, and the values and biases of its layers.
#[derive(Clone)]
struct Leaves {
    x: Tensor<2>,
    values: Vec<Tensor<3>>,
    biases: Vec<Tensor<1>>,
}

fn plain([d_model, d_ff]: [usize; 2], block: usize, activation: MlpActivation) -> MlpPatterns {
    MlpPatterns {
        up: common::pattern(d_model, d_ff, block, 0.5, 1),
        down: common::pattern(d_ff, d_model, block, 0.5, 2),
        activation,
    }
}

fn gated([d_model, d_ff]: [usize; 2], block: usize, activation: MlpActivation) -> GatedPatterns {
    GatedPatterns {
        gate: common::pattern(d_model, d_ff, block, 0.5, 1),
        up: common::pattern(d_model, d_ff, block, 0.5, 2),
        down: common::pattern(d_ff, d_model, block, 0.5, 3),
        activation,
    }
}

/// The activation, written out: on some backends Burn's own GELU has the gradient of the tanh approximation.
fn activate<const D: usize>(x: Tensor<D>, activation: MlpActivation) -> Tensor<D> {
    match activation {
        MlpActivation::Gelu => x.clone() * (x / 2.0_f64.sqrt()).erf().add_scalar(1.0) / 2.0,
        MlpActivation::Relu => relu(x),
        MlpActivation::Silu => silu(x),
    }
}

impl Block {
    fn layers(&self) -> Vec<&BlockPattern> {
        match self {
            Block::Plain(patterns) => vec![&patterns.up, &patterns.down],
            Block::Gated(patterns) => vec![&patterns.gate, &patterns.up, &patterns.down],
        }
    }

    fn leaves(&self, rows: usize, device: &Device) -> Leaves {
        let layers = self.layers();
        let d_model = layers[0].shape().rows();
        let values = layers.iter().zip(5..).map(|(layer, seed)| {
            let (area, b) = (layer.shape().area(), layer.block().get());
            let packed = burn_blast_kernels::pack::pack(&numbers(area, seed), layer);
            tensor(&packed, [layer.nnz(), b, b], device, DType::F32)
        });
        let biased = if matches!(self, Block::Plain(_)) { layers.as_slice() } else { &[] };
        let biases = biased.iter().map(|layer| {
            let features = layer.shape().cols();
            uniform([features], 9, device)
        });
        let x = uniform([rows, d_model], 4, device);
        Leaves { x, values: values.collect(), biases: biases.collect() }
    }

    /// The block as one operation.
    fn fused(&self, Leaves { x, values, biases }: Leaves) -> Tensor<2> {
        match self {
            Block::Plain(patterns) => {
                let ([up, down], [first, second]) =
                    (values.try_into().unwrap(), biases.try_into().unwrap());
                mlp(x, up, first, down, second, patterns)
            }
            Block::Gated(patterns) => {
                let [gate, up, down] = values.try_into().unwrap();
                gated_mlp(x, gate, up, down, patterns)
            }
        }
    }

    /// The dense block, by Burn.
    fn dense(&self, Leaves { x, values, biases }: Leaves) -> Tensor<2> {
        let layer = |x: Tensor<2>, at: usize| {
            let y = x.matmul(unpack(values[at].clone(), self.layers()[at]));
            match biases.get(at) {
                Some(bias) => y + bias.clone().unsqueeze(),
                None => y,
            }
        };
        match self {
            Block::Plain(patterns) => layer(activate(layer(x, 0), patterns.activation), 1),
            Block::Gated(patterns) => {
                let gate = activate(layer(x.clone(), 0), patterns.activation);
                layer(gate * layer(x, 1), 2)
            }
        }
    }

    /// Compares output and gradients of the fused and the dense block.
    fn check(&self, rows: usize, device: &Device, case: &str) {
        let leaves = self.leaves(rows, device);
        let fused = results(leaves.clone(), |leaves| self.fused(leaves));
        assert_same(&fused, &results(leaves, |leaves| self.dense(leaves)), case);
    }
}

/// Output and gradients of `Σ c · y²`.
fn results(leaves: Leaves, block: impl Fn(Leaves) -> Tensor<2>) -> Vec<Vec<f32>> {
    let Leaves { x, values, biases } = leaves;
    let x = x.require_grad();
    let values: Vec<_> = values.into_iter().map(Tensor::require_grad).collect();
    let biases: Vec<_> = biases.into_iter().map(Tensor::require_grad).collect();
    let y = block(Leaves { x: x.clone(), values: values.clone(), biases: biases.clone() });
    let c = uniform(y.dims(), 8, &y.device());
    let grads = (c * y.clone().square()).sum().backward();
    let mut results = vec![floats(y), floats(x.grad(&grads).unwrap())];
    results.extend(values.iter().map(|values| floats(values.grad(&grads).unwrap())));
    results.extend(biases.iter().map(|bias| floats(bias.grad(&grads).unwrap())));
    results
}

/// Each part of both results, such as a gradient, must be the same but for rounding.
fn assert_same(one: &[Vec<f32>], other: &[Vec<f32>], case: &str) {
    for (at, (one, other)) in one.iter().zip(other).enumerate() {
        let off = distance(one, other);
        assert!(off < 2e-5, "{case}, part {at}: off by {off}");
    }
}

#[test]
fn the_fused_block_has_the_value_and_gradients_of_the_dense_block() {
    use MlpActivation::{Gelu, Relu, Silu};
    for engine in engines() {
        let device = engine.device.clone().autodiff();
        let mut one_pattern = gated([32, 48], 16, Silu);
        one_pattern.up = one_pattern.gate.clone();
        let cases = [
            (Block::Plain(plain([32, 48], 16, Gelu)), 9),
            (Block::Plain(plain([19, 37], 8, Relu)), 1),
            (Block::Plain(plain([32, 48], 16, Silu)), 33),
            (Block::Gated(gated([32, 48], 16, Silu)), 9),
            (Block::Gated(gated([19, 37], 8, Silu)), 9),
            (Block::Gated(gated([32, 48], 16, Gelu)), 9),
            (Block::Gated(gated([19, 37], 8, Relu)), 9),
            (Block::Gated(one_pattern), 9),
        ];
        for (at, (block, rows)) in cases.into_iter().enumerate() {
            block.check(rows, &device, &format!("{}, case {at}", engine.name));
        }
    }
}

#[test]
fn no_rows_and_no_blocks_are_blocks_too() {
    for engine in engines() {
        let device = engine.device.clone().autodiff();
        let mut patterns = plain([32, 48], 16, MlpActivation::Gelu);
        // Burn's own error function overflows on a GPU's empty tensor, so there no rows are an error with or without
        // us.
        if !engine.slow {
            let block = Block::Plain(patterns.clone());
            let none = results(block.leaves(0, &device), |leaves| block.fused(leaves));
            assert!(none.iter().flatten().all(|&number| number == 0.0), "{}", engine.name);
        }
        patterns.up = common::pattern(32, 48, 16, 0.0, 1);
        let block = Block::Plain(patterns);
        for rows in [3, 20] {
            block.check(rows, &device, &format!("{}, {rows} rows", engine.name));
        }
    }
}

#[test]
fn half_precision_differs_from_single_by_its_rounding() {
    for engine in engines() {
        for dtype in dtypes(&engine).into_iter().filter(|&dtype| dtype != DType::F32) {
            for (block, rows) in [
                (Block::Plain(plain([32, 48], 16, MlpActivation::Gelu)), 3),
                (Block::Plain(plain([32, 48], 16, MlpActivation::Gelu)), 20),
                (Block::Gated(gated([32, 48], 16, MlpActivation::Silu)), 9),
            ] {
                let leaves = block.leaves(rows, &engine.device);
                let run = |dtype: DType| {
                    let Leaves { x, values, biases } = leaves.clone();
                    let values = values.into_iter().map(|values| values.cast(dtype)).collect();
                    let biases = biases.into_iter().map(|bias| bias.cast(dtype)).collect();
                    floats(block.fused(Leaves { x: x.cast(dtype), values, biases }))
                };
                let off = distance(&run(dtype), &run(DType::F32));
                let limit = if dtype == DType::F16 { 4e-3 } else { 3e-2 };
                assert!(off < limit, "{}, {dtype:?}, {rows} rows: off by {off}", engine.name);
            }
        }
    }
}

fn gated_module(device: &Device) -> BlockSparseGatedMlp {
    device.seed(4);
    BlockSparseGatedMlpConfig::new(64, 96).with_block_size(16).with_sparsity(0.5).init(device)
}

fn module(bias: bool, activation: MlpActivation, device: &Device) -> BlockSparseMlp {
    device.seed(4);
    let config = BlockSparseMlpConfig::new(64, 96).with_block_size(16).with_sparsity(0.5);
    config.with_bias(bias).with_activation(activation).init(device)
}

#[test]
fn a_module_gives_the_same_fused_and_layer_by_layer() {
    for engine in engines() {
        let input = |rows| uniform([2, rows, 64], 1, &engine.device);
        let check = |fused: Tensor<3>, layers: Tensor<3>, case: &str| {
            assert_eq!(fused.dims(), layers.dims());
            let off = distance(&floats(fused), &floats(layers));
            assert!(off < 1e-5, "{}, {case}: off by {off}", engine.name);
        };
        for (bias, activation, rows) in [
            (true, MlpActivation::Gelu, 1),
            (true, MlpActivation::Silu, 20),
            (false, MlpActivation::Relu, 5),
        ] {
            let (block, x) = (module(bias, activation, &engine.device), input(rows));
            let layers = block.down.forward(activate(block.up.forward(x.clone()), activation));
            check(block.forward(x), layers, &format!("{activation:?}"));
        }
        let (block, x) = (gated_module(&engine.device), input(5));
        for activation in [MlpActivation::Silu, MlpActivation::Gelu] {
            let gate = activate(block.gate.forward(x.clone()), activation);
            let layers = block.down.forward(gate * block.up.forward(x.clone()));
            let fused = block.clone().with_activation(activation).forward(x.clone());
            check(fused, layers, &format!("gated, {activation:?}"));
        }
    }
}

#[test]
fn every_parameter_of_the_module_gets_its_gradient() {
    for engine in engines() {
        let device = engine.device.clone().autodiff();
        let block = module(true, MlpActivation::Silu, &device);
        let x = uniform([20, 64], 1, &device);
        let gradients = |y: Tensor<2>| {
            let grads = GradientsParams::from_grads(y.square().sum().backward(), &block);
            let mut found = Vec::new();
            for layer in [&block.up, &block.down] {
                found.push(floats(grads.get::<3>(layer.weight.id()).unwrap()));
                found.push(floats(grads.get::<1>(layer.bias.as_ref().unwrap().id).unwrap()));
            }
            found
        };
        let fused = gradients(block.forward(x.clone()));
        let layers = gradients(block.down.forward(silu(block.up.forward(x))));
        assert_same(&fused, &layers, engine.name);
    }
}

#[test]
fn gated_layers_that_cannot_be_fused_still_give_the_block() {
    // A bias, or another block size, goes layer by layer.
    let device = Device::flex();
    let fusable = gated_module(&device);
    let BlockSparseGatedMlp { gate, up, down, .. } = fusable.clone();
    let other = BlockSparseLinear::from_linear(&down.clone().into_linear(), 32).unwrap();
    let mixed = BlockSparseGatedMlp::new(gate.clone(), up.clone(), other);
    let x = uniform([7, 64], 1, &device);
    let want = floats(fusable.forward(x.clone()));
    assert!(distance(&floats(mixed.forward(x.clone())), &want) < 1e-5);
    let mut linear = down.into_linear();
    linear.bias = LinearConfig::new(96, 64)
        .init(&device)
        .bias
        .map(|bias| bias.map(|bias| bias.zeros_like() + 1.0));
    let biased = BlockSparseLinear::from_linear(&linear, 16).unwrap();
    let shifted: Vec<f32> = want.iter().map(|y| y + 1.0).collect();
    let got = floats(BlockSparseGatedMlp::new(gate, up, biased).forward(x));
    assert!(distance(&got, &shifted) < 1e-5);
}

#[test]
fn a_frozen_layer_gets_no_gradient_and_the_others_keep_theirs() {
    let device = Device::flex().autodiff();
    let mut block = gated_module(&device);
    block.up = block.up.freeze();
    let x = uniform([7, 64], 1, &device);
    let ids = [&block.gate, &block.up, &block.down].map(|layer| layer.weight.id());
    let grads = GradientsParams::from_grads(block.forward(x).sum().backward(), &block);
    let found = ids.map(|id| grads.get::<3>(id).is_some());
    assert_eq!(found, [true, false, true]);
}

#[test]
#[should_panic(expected = "one block size: call them one by one")]
fn layers_of_two_block_sizes_are_refused() {
    let mut patterns = plain([32, 48], 16, MlpActivation::Gelu);
    patterns.down = common::pattern(48, 32, 8, 0.5, 2);
    let block = Block::Plain(patterns);
    block.fused(block.leaves(2, &Device::flex()));
}
