//! The fused block of two layers on every backend: values and gradients equal the dense block and the single layers.

mod common;

use burn::optim::GradientsParams;
use burn::tensor::activation::{relu, silu};
use burn::tensor::{DType, Device, Tensor};
use burn_blast::functions::{MlpPatterns, mlp, unpack};
use burn_blast::module::{BlockSparseMlp, BlockSparseMlpConfig, MlpActivation};
use common::{distance, dtypes, engines, floats, numbers, tensor};

fn patterns([d_model, d_ff]: [usize; 2], block: usize, activation: MlpActivation) -> MlpPatterns {
    MlpPatterns {
        up: common::pattern(d_model, d_ff, block, 0.5, 1),
        down: common::pattern(d_ff, d_model, block, 0.5, 2),
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

/// The dense block, by Burn.
fn dense(
    patterns: &MlpPatterns,
    x: Tensor<2>,
    [up, down]: [Tensor<3>; 2],
    [first, second]: [Tensor<1>; 2],
) -> Tensor<2> {
    let h = x.matmul(unpack(up, &patterns.up)) + first.unsqueeze();
    activate(h, patterns.activation).matmul(unpack(down, &patterns.down)) + second.unsqueeze()
}

/// The block as one operation.
fn fused(
    patterns: &MlpPatterns,
    x: Tensor<2>,
    [up, down]: [Tensor<3>; 2],
    [first, second]: [Tensor<1>; 2],
) -> Tensor<2> {
    mlp(x, up, first, down, second, patterns)
}

type Leaves = (Tensor<2>, [Tensor<3>; 2], [Tensor<1>; 2]);

fn leaves(patterns: &MlpPatterns, rows: usize, device: &Device) -> Leaves {
    let d_model = patterns.up.shape().rows();
    let x = tensor(&numbers(rows * d_model, 4), [rows, d_model], device, DType::F32);
    let layers = [&patterns.up, &patterns.down];
    let values = [0, 1].map(|at| {
        let (shape, b) = (layers[at].shape(), layers[at].block().get());
        let packed = burn_blast_kernels::pack::pack(&numbers(shape.area(), 5), layers[at]);
        tensor(&packed, [layers[at].nnz(), b, b], device, DType::F32)
    });
    let biases = layers.map(|layer| {
        let features = layer.shape().cols();
        tensor(&numbers(features, 7), [features], device, DType::F32)
    });
    (x, values, biases)
}

/// Output and gradients of `Σ c · y²`.
fn results(
    (x, values, biases): Leaves,
    block: impl Fn(Tensor<2>, [Tensor<3>; 2], [Tensor<1>; 2]) -> Tensor<2>,
) -> Vec<Vec<f32>> {
    let (x, values) = (x.require_grad(), values.map(Tensor::require_grad));
    let biases = biases.map(Tensor::require_grad);
    let y = block(x.clone(), values.clone(), biases.clone());
    let c = tensor(&numbers(y.shape().num_elements(), 8), y.dims(), &y.device(), DType::F32);
    let grads = (c * y.clone().square()).sum().backward();
    let mut results = vec![floats(y), floats(x.grad(&grads).unwrap())];
    results.extend(values.map(|values| floats(values.grad(&grads).unwrap())));
    results.extend(biases.map(|bias| floats(bias.grad(&grads).unwrap())));
    results
}

/// Each part of both results, such as a gradient, must be the same but for rounding.
fn check(one: &[Vec<f32>], other: &[Vec<f32>], case: &str) {
    for (at, (one, other)) in one.iter().zip(other).enumerate() {
        let off = distance(one, other);
        assert!(off < 2e-5, "{case}, part {at}: off by {off}");
    }
}

#[test]
fn the_fused_block_has_the_value_and_gradients_of_the_dense_block() {
    for engine in engines() {
        let device = engine.device.clone().autodiff();
        for (sizes, block, activation, rows) in [
            ([32, 48], 16, MlpActivation::Gelu, 9),
            ([19, 37], 8, MlpActivation::Relu, 1),
            ([32, 48], 16, MlpActivation::Silu, 33),
        ] {
            let patterns = patterns(sizes, block, activation);
            let leaves = leaves(&patterns, rows, &device);
            let one =
                results(leaves.clone(), |x, values, biases| fused(&patterns, x, values, biases));
            let dense = results(leaves, |x, values, biases| dense(&patterns, x, values, biases));
            check(&one, &dense, &format!("{}, {sizes:?}, {activation:?}", engine.name));
        }
    }
}

#[test]
fn no_rows_and_no_blocks_are_blocks_too() {
    for engine in engines() {
        let device = engine.device.clone().autodiff();
        // Burn's own error function overflows on a GPU's empty tensor, so there no rows are an error with or without
        // us.
        if !engine.slow {
            let patterns = patterns([32, 48], 16, MlpActivation::Gelu);
            let leaves = leaves(&patterns, 0, &device);
            let none = results(leaves, |x, values, biases| fused(&patterns, x, values, biases));
            assert!(none.iter().flatten().all(|&number| number == 0.0), "{}", engine.name);
        }
        for rows in [3, 20] {
            let mut patterns = patterns([32, 48], 16, MlpActivation::Gelu);
            patterns.up = common::pattern(32, 48, 16, 0.0, 1);
            let leaves = leaves(&patterns, rows, &device);
            let one =
                results(leaves.clone(), |x, values, biases| fused(&patterns, x, values, biases));
            let dense = results(leaves, |x, values, biases| dense(&patterns, x, values, biases));
            check(&one, &dense, &format!("{}, {rows} rows", engine.name));
        }
    }
}

#[test]
fn half_precision_differs_from_single_by_its_rounding() {
    for engine in engines() {
        for dtype in dtypes(&engine).into_iter().filter(|&dtype| dtype != DType::F32) {
            let patterns = patterns([32, 48], 16, MlpActivation::Gelu);
            for rows in [3, 20] {
                let (x, values, biases) = leaves(&patterns, rows, &engine.device);
                let run = |dtype: DType| {
                    let values = values.clone().map(|values| values.cast(dtype));
                    let biases = biases.clone().map(|bias| bias.cast(dtype));
                    floats(fused(&patterns, x.clone().cast(dtype), values, biases))
                };
                let off = distance(&run(dtype), &run(DType::F32));
                let limit = if dtype == DType::F16 { 4e-3 } else { 3e-2 };
                assert!(off < limit, "{}, {dtype:?}: off by {off}", engine.name);
            }
        }
    }
}

fn module(bias: bool, activation: MlpActivation, device: &Device) -> BlockSparseMlp {
    device.seed(4);
    BlockSparseMlpConfig::new(64, 96)
        .with_block_size(16)
        .with_sparsity(0.5)
        .with_bias(bias)
        .with_activation(activation)
        .init(device)
}

#[test]
fn the_module_gives_the_same_fused_and_layer_by_layer() {
    for engine in engines() {
        for (bias, activation, rows) in [
            (true, MlpActivation::Gelu, 1),
            (true, MlpActivation::Silu, 20),
            (false, MlpActivation::Relu, 5),
        ] {
            let block = module(bias, activation, &engine.device);
            let numbers = numbers(2 * rows * 64, 1);
            let x = tensor::<3>(&numbers, [2, rows, 64], &engine.device, DType::F32);
            let parts = block.down.forward(activate(block.up.forward(x.clone()), activation));
            let one = block.forward(x);
            assert_eq!(one.dims(), [2, rows, 64]);
            let off = distance(&floats(one), &floats(parts));
            assert!(off < 1e-5, "{}, {activation:?}, {rows} rows: off by {off}", engine.name);
        }
    }
}

#[test]
fn every_parameter_of_the_module_gets_its_gradient() {
    for engine in engines() {
        let device = engine.device.clone().autodiff();
        let block = module(true, MlpActivation::Silu, &device);
        let x = tensor::<2>(&numbers(20 * 64, 1), [20, 64], &device, DType::F32);
        let gradients = |y: Tensor<2>| {
            let grads = GradientsParams::from_grads(y.square().sum().backward(), &block);
            let mut found = Vec::new();
            for layer in [&block.up, &block.down] {
                found.push(floats(grads.get::<3>(layer.weight.id()).unwrap()));
                found.push(floats(grads.get::<1>(layer.bias.as_ref().unwrap().id).unwrap()));
            }
            found
        };
        let one = gradients(block.forward(x.clone()));
        let parts = gradients(block.down.forward(silu(block.up.forward(x))));
        check(&one, &parts, engine.name);
    }
}

#[test]
#[should_panic(expected = "one block size: call them one by one")]
fn layers_of_two_block_sizes_are_refused() {
    let device = Device::flex();
    let mut patterns = patterns([32, 48], 16, MlpActivation::Gelu);
    let (x, [up, _], biases) = leaves(&patterns, 2, &device);
    patterns.down = common::pattern(48, 32, 8, 0.5, 2);
    let down = Tensor::zeros([patterns.down.nnz(), 8, 8], &device);
    fused(&patterns, x, [up, down], biases);
}
