//! The fused gated block on every backend: values and gradients are the same as in the dense block and in its
//! single layers.

mod common;

use burn::module::Module;
use burn::nn::LinearConfig;
use burn::optim::GradientsParams;
use burn::tensor::activation::{gelu, relu, silu};
use burn::tensor::{DType, Device, Tensor};
use burn_blast::functions::{GatedPatterns, gated_mlp, unpack};
use burn_blast::module::{
    BlockSparseGatedMlp, BlockSparseGatedMlpConfig, BlockSparseLinear, MlpActivation,
};
use common::{distance, engines, floats, numbers, tensor};

const ROWS: usize = 9;

fn patterns([d_model, d_ff]: [usize; 2], block: usize) -> GatedPatterns {
    GatedPatterns {
        gate: common::pattern(d_model, d_ff, block, 0.5, 1),
        up: common::pattern(d_model, d_ff, block, 0.5, 2),
        down: common::pattern(d_ff, d_model, block, 0.5, 3),
        activation: MlpActivation::Silu,
    }
}

/// The dense block, by Burn.
fn dense(patterns: &GatedPatterns, x: Tensor<2>, [gate, up, down]: [Tensor<3>; 3]) -> Tensor<2> {
    let gate = x.clone().matmul(unpack(gate, &patterns.gate));
    let gate = match patterns.activation {
        // Written out: on some backends Burn's own GELU has the gradient of the tanh approximation.
        MlpActivation::Gelu => gate.clone() * (gate / 2.0_f64.sqrt()).erf().add_scalar(1.0) / 2.0,
        MlpActivation::Relu => relu(gate),
        MlpActivation::Silu => silu(gate),
    };
    (gate * x.matmul(unpack(up, &patterns.up))).matmul(unpack(down, &patterns.down))
}

/// Input and values, each a leaf that wants a gradient.
fn leaves(patterns: &GatedPatterns, device: &Device) -> (Tensor<2>, [Tensor<3>; 3]) {
    let d_model = patterns.gate.shape().rows();
    let x = tensor(&numbers(ROWS * d_model, 4), [ROWS, d_model], device, DType::F32);
    let all = [&patterns.gate, &patterns.up, &patterns.down];
    let values = [0, 1, 2].map(|at| {
        let shape = all[at].shape();
        let dense = numbers(shape.area(), 5 + at as u64);
        let packed = burn_blast_kernels::pack::pack(&dense, all[at]);
        let b = all[at].block().get();
        tensor(&packed, [all[at].nnz(), b, b], device, DType::F32).require_grad()
    });
    (x.require_grad(), values)
}

/// Output and gradients of `Σ c · y²`.
fn results(
    patterns: &GatedPatterns,
    device: &Device,
    block: impl Fn(Tensor<2>, [Tensor<3>; 3]) -> Tensor<2>,
) -> Vec<Vec<f32>> {
    let (x, values) = leaves(patterns, device);
    let y = block(x.clone(), values.clone());
    let c = tensor(&numbers(y.shape().num_elements(), 8), y.dims(), device, DType::F32);
    let grads = (c * y.clone().square()).sum().backward();
    let mut results = vec![floats(y), floats(x.grad(&grads).unwrap())];
    results.extend(values.map(|values| floats(values.grad(&grads).unwrap())));
    results
}

#[test]
fn the_fused_block_has_the_value_and_gradients_of_the_dense_one() {
    for engine in engines() {
        let cases = [
            ([32, 48], 16, MlpActivation::Silu),
            ([19, 37], 8, MlpActivation::Silu),
            ([32, 48], 16, MlpActivation::Gelu),
            ([19, 37], 8, MlpActivation::Relu),
        ];
        for (sizes, block, activation) in cases {
            let patterns = GatedPatterns { activation, ..patterns(sizes, block) };
            let device = engine.device.clone().autodiff();
            let fused = results(&patterns, &device, |x, [gate, up, down]| {
                gated_mlp(x, gate, up, down, &patterns)
            });
            let dense = results(&patterns, &device, |x, values| dense(&patterns, x, values));
            for (at, (fused, dense)) in fused.iter().zip(&dense).enumerate() {
                let off = distance(fused, dense);
                let case = format!("{}, {sizes:?}, {activation:?}", engine.name);
                assert!(off < 2e-5, "{case}, part {at}: off by {off}");
            }
        }
    }
}

#[test]
fn gate_and_up_of_one_pattern_have_the_value_and_gradients_of_the_dense_block() {
    for engine in engines() {
        let mut patterns = patterns([32, 48], 16);
        patterns.up = patterns.gate.clone();
        let device = engine.device.clone().autodiff();
        let fused = results(&patterns, &device, |x, [gate, up, down]| {
            gated_mlp(x, gate, up, down, &patterns)
        });
        let dense = results(&patterns, &device, |x, values| dense(&patterns, x, values));
        for (at, (fused, dense)) in fused.iter().zip(&dense).enumerate() {
            let off = distance(fused, dense);
            assert!(off < 2e-5, "{}, part {at}: off by {off}", engine.name);
        }
    }
}

#[test]
fn half_precision_differs_from_single_by_its_rounding() {
    for engine in engines() {
        for dtype in common::dtypes(&engine).into_iter().filter(|&dtype| dtype != DType::F32) {
            let patterns = patterns([32, 48], 16);
            let (x, values) = leaves(&patterns, &engine.device.clone().autodiff());
            let (x, values) = (x.inner(), values.map(Tensor::inner));
            let run = |dtype: DType| {
                let [gate, up, down] = values.clone().map(|values| values.cast(dtype));
                floats(gated_mlp(x.clone().cast(dtype), gate, up, down, &patterns))
            };
            let off = distance(&run(dtype), &run(DType::F32));
            let limit = if dtype == DType::F16 { 4e-3 } else { 3e-2 };
            assert!(off < limit, "{}, {dtype:?}: off by {off}", engine.name);
        }
    }
}

fn module(device: &Device) -> BlockSparseGatedMlp {
    device.seed(4);
    BlockSparseGatedMlpConfig::new(64, 96).with_block_size(16).with_sparsity(0.5).init(device)
}

#[test]
fn the_module_gives_the_same_fused_and_layer_by_layer() {
    for engine in engines() {
        let block = module(&engine.device);
        let x = tensor::<3>(&numbers(2 * 5 * 64, 1), [2, 5, 64], &engine.device, DType::F32);
        let up = block.up.forward(x.clone());
        for activation in [MlpActivation::Silu, MlpActivation::Gelu] {
            let gate = block.gate.forward(x.clone());
            let gate = if activation == MlpActivation::Silu { silu(gate) } else { gelu(gate) };
            let parts = block.down.forward(gate * up.clone());
            let fused = block.clone().with_activation(activation).forward(x.clone());
            assert_eq!(fused.dims(), [2, 5, 64]);
            let off = distance(&floats(fused), &floats(parts));
            assert!(off < 1e-5, "{}, {activation:?}: off by {off}", engine.name);
        }
    }
}

#[test]
fn layers_that_cannot_be_fused_still_give_the_block() {
    // A bias, or another block size, goes layer by layer.
    let device = Device::flex();
    let fusable = module(&device);
    let BlockSparseGatedMlp { gate, up, down, .. } = fusable.clone();
    let other = BlockSparseLinear::from_linear(&down.clone().into_linear(), 32).unwrap();
    let mixed = BlockSparseGatedMlp::new(gate.clone(), up.clone(), other);
    let x = tensor::<2>(&numbers(7 * 64, 1), [7, 64], &device, DType::F32);
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
    let mut block = module(&device);
    block.up = block.up.freeze();
    let x = tensor::<2>(&numbers(7 * 64, 1), [7, 64], &device, DType::F32);
    let ids = [&block.gate, &block.up, &block.down].map(|layer| layer.weight.id());
    let grads = GradientsParams::from_grads(block.forward(x).sum().backward(), &block);
    let found = ids.map(|id| grads.get::<3>(id).is_some());
    assert_eq!(found, [true, false, true]);
}
