//! The layer as a module: its life in a user's model, and the choice of its product.

mod common;

use burn::module::{Module, Param};
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::{DType, Device, Distribution, Tensor};
use burn_blast::module::{
    AnyLinear, BlockSparseGatedMlp, BlockSparseGatedMlpConfig, BlockSparseLinear,
    BlockSparseLinearConfig, BlockSparseMlpConfig, Integer, LayerError, quantize,
};
use burn_blast::report::summary;
use burn_blast::tuning::{
    self, BreakEven, Kernel, PathReason, ProductPath, Strategy, TuningError, TuningTable, warm_up,
};
use common::{distance, engines, floats, uniform};

#[derive(Module, Debug)]
struct Net {
    first: Linear,
    mlp: BlockSparseGatedMlp,
    last: Option<BlockSparseLinear>,
}

fn net(device: &Device) -> Net {
    Net {
        first: LinearConfig::new(24, 32).init(device),
        mlp: BlockSparseGatedMlpConfig::new(32, 64)
            .with_block_size(16)
            .with_sparsity(0.5)
            .init(device),
        last: Some(BlockSparseLinearConfig::new(32, 10).with_block_size(8).init(device)),
    }
}

impl Net {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let y = self.mlp.forward(self.first.forward(x));
        self.last.as_ref().unwrap().forward(y)
    }
}

#[test]
fn a_layer_is_the_product_with_its_dense_weight() {
    for engine in engines() {
        let layer = BlockSparseLinearConfig::new(40, 24)
            .with_block_size(16)
            .with_sparsity(0.5)
            .init(&engine.device);
        let x = uniform([2, 3, 40], 1, &engine.device);
        let y = layer.clone().with_strategy(Strategy::Sparse).forward(x.clone());
        let dense = layer.clone().into_linear().forward(x.clone());
        assert_eq!(y.dims(), [2, 3, 24]);
        assert!(distance(&floats(y), &floats(dense.clone())) < 1e-5, "{}", engine.name);
        let unpacked = layer.with_strategy(Strategy::Dense).forward(x);
        assert!(distance(&floats(unpacked), &floats(dense)) < 1e-5, "{}", engine.name);
    }
}

#[test]
fn any_rank_from_one_up_is_taken() {
    let device = Device::flex();
    let layer = BlockSparseLinearConfig::new(8, 8).with_block_size(8).init(&device);
    let flat = uniform([8], 1, &device);
    let one = layer.forward(flat.clone());
    let four = layer.forward(flat.reshape([1, 1, 1, 8]));
    assert_eq!(floats(one), floats(four));
}

#[test]
fn first_values_are_drawn_as_for_a_linear_layer_with_the_kept_inputs_only() {
    for ([d_input, d_output], sparsity, kept_inputs, nnz) in
        [([300, 200], 0.0, 300.0_f32, 70), ([256, 256], 0.75, 64.0, 16)]
    {
        let config = BlockSparseLinearConfig::new(d_input, d_output).with_sparsity(sparsity);
        let layer = config.init(&Device::flex());
        let bound = (1.0 / kept_inputs).sqrt();
        let largest = floats(layer.to_dense()).iter().fold(0.0_f32, |max, w| max.max(w.abs()));
        assert!(largest <= bound && largest > 0.99 * bound, "{largest} against {bound}");
        assert_eq!((layer.pattern().nnz(), layer.sparsity()), (nnz, sparsity));
    }
}

#[test]
fn an_initializer_is_obeyed() {
    let layer = BlockSparseLinearConfig::new(16, 16)
        .with_initializer(Initializer::Constant { value: 0.5 })
        .with_bias(false)
        .init(&Device::flex());
    assert!(layer.bias.is_none());
    assert!(floats(layer.to_dense()).iter().all(|&w| w == 0.5));
}

#[test]
fn a_pruned_linear_layer_is_packed_and_unpacked_without_loss() {
    let device = Device::flex();
    let mut linear = LinearConfig::new(48, 40).init(&device);
    linear.weight = linear.weight.map(|w| w.slice_fill([0..16, 0..32], 0.0));
    let dense = floats(linear.weight.val());
    let layer = BlockSparseLinear::from_linear(&linear, 16).unwrap();
    assert_eq!(layer.pattern().nnz(), 9 - 2);
    assert_eq!(floats(layer.to_dense()), dense);
    assert_eq!(floats(layer.into_linear().weight.val()), dense);
    let error = BlockSparseLinear::from_linear(&linear, 20).unwrap_err();
    assert!(error.to_string().contains("block size 20 is not supported"), "{error}");
}

#[test]
fn a_model_forks_moves_freezes_and_validates() {
    for engine in engines() {
        let train = engine.device.clone().autodiff();
        let model = net(&train);
        let x = uniform([3, 24], 1, &train);
        let y = floats(model.forward(x.clone()));
        let plain = x.clone().without_autodiff();

        let valid = model.valid();
        assert!(!valid.mlp.gate.weight.device().is_autodiff());
        assert!(distance(&floats(valid.forward(plain)), &y) < 1e-6);
        assert!(distance(&floats(model.clone().fork(&train).forward(x.clone())), &y) < 1e-6);
        assert!(distance(&floats(model.clone().to_device(&train).forward(x.clone())), &y) < 1e-6);

        let frozen = model.clone().freeze();
        assert!(!frozen.mlp.gate.weight.values().is_require_grad());
        assert!(model.mlp.gate.weight.values().is_require_grad());
        let back = valid.train();
        assert!(back.mlp.gate.weight.values().is_require_grad());
        let grads = back.forward(x).sum().backward();
        assert!(back.mlp.gate.weight.values().grad(&grads).is_some(), "{}", engine.name);
    }
}

#[test]
fn parameters_are_counted_as_held() {
    let device = Device::flex();
    let layer =
        BlockSparseLinearConfig::new(64, 64).with_block_size(16).with_sparsity(0.75).init(&device);
    assert_eq!(layer.num_params(), 4 * 256 + 64);
    assert_eq!(layer.weight.bytes(), 4 * 256 * 4 + (2 * 5 + 3 * 4) * 4);
}

#[test]
fn a_model_prints_its_blocks() {
    let layer = BlockSparseLinearConfig::new(64, 32).with_sparsity(0.5).init(&Device::flex());
    let text = format!("{layer}");
    for part in ["d_input: 64", "d_output: 32", "block: 32", "kept: 1", "blocks: 2"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

#[test]
fn a_summary_lists_every_layer_by_its_path() {
    let model = net(&Device::flex());
    let summary = summary(&model);
    let names: Vec<&str> = summary.layers.iter().map(|layer| layer.name.as_str()).collect();
    assert_eq!(names, ["mlp.gate", "mlp.up", "mlp.down", "last"]);
    assert_eq!(summary.layers[0].pattern.nnz(), 4);
    assert!(summary.to_string().contains("mlp.down"));
    assert!(summary.to_string().contains("all 4 layers: "));
}

#[test]
fn warming_up_runs_each_number_of_rows_once_and_leaves_the_layer_as_it_was() {
    for engine in engines() {
        for device in [engine.device.clone(), engine.device.clone().autodiff()] {
            let layer = BlockSparseLinearConfig::new(32, 24).with_block_size(8).init(&device);
            let layer = layer.with_strategy(Strategy::Sparse);
            let before = floats(layer.to_dense());
            layer.warm_up(&[3, 1, 3]).unwrap();
            assert_eq!(floats(layer.to_dense()), before, "{}", engine.name);
            let seen = std::cell::RefCell::new(Vec::new());
            let forward = |x: Tensor<2>| {
                seen.borrow_mut().push(x.dims());
                layer.forward(x)
            };
            warm_up(forward, 32, &[3, 1, 3], &device, DType::F32).unwrap();
            assert_eq!(*seen.borrow(), [[1, 32], [3, 32]], "{}", engine.name);
        }
    }
}

#[test]
fn the_kernel_is_named() {
    for engine in engines() {
        let layer = BlockSparseLinearConfig::new(32, 32).init(&engine.device);
        assert_eq!(layer.clone().with_strategy(Strategy::Dense).kernel(1), Kernel::Dense);
        let layer = layer.with_strategy(Strategy::Sparse);
        for (rows, gpu) in [(1, "gemv, 1 x 32 per cube"), (64, "register tiles, 64 x 32 per cube")]
        {
            let want = if engine.slow { gpu } else { "vector instructions of the host" };
            assert_eq!(layer.kernel(rows).to_string(), want, "{}", engine.name);
            assert_eq!(layer.clone().train().kernel(rows), layer.kernel(rows), "{}", engine.name);
        }
    }
}

#[test]
fn the_path_is_reported_with_its_reason() {
    let layer = BlockSparseLinearConfig::new(256, 256).with_sparsity(0.9).init(&Device::flex());
    let choice = layer.path(64);
    assert_eq!(choice.path, ProductPath::Sparse);
    let text = choice.to_string();
    assert!(text.starts_with("block-sparse kernel: 64 rows, 9.4 % of blocks kept"), "{text}");
    let forced = layer.with_strategy(Strategy::Dense).path(64);
    assert_eq!(forced.path, ProductPath::Dense);
}

#[test]
#[should_panic(expected = "the last axis of the input is 31, but the layer has d_input 32")]
fn an_input_of_another_size_is_refused() {
    let layer = BlockSparseLinearConfig::new(32, 32).init(&Device::flex());
    layer.forward(Tensor::<2>::zeros([1, 31], &Device::flex()));
}

#[test]
#[should_panic(expected = "the bias has 3 elements, but d_output is 32")]
fn a_bias_of_another_size_is_refused() {
    let device = Device::flex();
    let layer = BlockSparseLinearConfig::new(32, 32).init(&device);
    let bias = Param::from_tensor(Tensor::<1>::zeros([3], &device));
    BlockSparseLinear::new(layer.weight, Some(bias));
}

#[test]
fn a_sparsity_that_is_not_a_share_is_refused() {
    for sparsity in [90.0, -0.1, f64::NAN] {
        let config = BlockSparseLinearConfig::new(32, 32).with_sparsity(sparsity);
        let error = config.try_init(&Device::flex()).unwrap_err();
        let LayerError::Sparsity { found } = error else { panic!("{error}") };
        assert_eq!(found.to_bits(), sparsity.to_bits());
        assert!(error.to_string().contains("between 0 and 1"), "{error}");
        let mlp = BlockSparseMlpConfig::new(32, 32).with_sparsity(sparsity);
        assert!(mlp.try_init(&Device::flex()).is_err());
        let mlp = BlockSparseGatedMlpConfig::new(32, 32).with_sparsity(sparsity);
        assert!(mlp.try_init(&Device::flex()).is_err());
    }
}

#[test]
fn layers_whose_sizes_do_not_fit_are_refused() {
    let device = Device::flex();
    let layer = |d_input, d_output| BlockSparseLinearConfig::new(d_input, d_output).init(&device);
    let message = |gate: (usize, usize), up: (usize, usize), down: (usize, usize)| {
        let layers = [gate, up, down].map(|(d_input, d_output)| layer(d_input, d_output));
        let [gate, up, down] = layers;
        let build = std::panic::AssertUnwindSafe(|| BlockSparseGatedMlp::new(gate, up, down));
        let panic = std::panic::catch_unwind(build).unwrap_err();
        let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap()
    };
    assert_eq!(message((8, 16), (8, 17), (16, 8)), "gate and up must have the same size");
    assert!(message((8, 16), (8, 16), (17, 8)).contains("16 features, not 17"));
}

#[test]
fn a_packed_layer_is_not_packed_again_in_other_blocks() {
    let mut layer = AnyLinear::Dense(LinearConfig::new(32, 32).init(&Device::flex()));
    layer.pack(16).unwrap();
    layer.pack(16).unwrap();
    let error = layer.pack(8).unwrap_err();
    assert!(matches!(error, LayerError::OtherBlocks { found: 16, asked: 8 }), "{error}");
    assert_eq!(layer.block_size(), Some(16));
}

fn layers(device: &Device) -> Vec<BlockSparseLinear> {
    let layer = |(d_input, d_output)| {
        BlockSparseLinearConfig::new(d_input, d_output).with_block_size(16).init(device)
    };
    [(48, 64), (64, 48), (48, 64)].map(layer).into()
}

#[test]
fn a_table_decides_for_the_layer_that_has_it_and_is_named() {
    let device = Device::flex();
    let layer = BlockSparseLinearConfig::new(64, 128).with_block_size(16).with_sparsity(0.5);
    let layer = layer.init(&device);
    assert!(matches!(layer.path(8).reason, PathReason::CostModel { .. }));
    let x = Tensor::<2>::random([8, 64], Distribution::Default, &device);
    let before = layer.forward(x.clone());
    let table = |break_even_density| TuningTable {
        device: String::new(),
        backend: "flex".to_owned(),
        features: Vec::new(),
        entries: vec![BreakEven {
            block: 16,
            dtype: "f32".to_owned(),
            d_input: 64,
            d_output: 128,
            rows: 16,
            break_even_density,
            at_least: false,
        }],
    };
    let tuned = tuning::apply(layer.clone(), &table(0.4));
    assert_eq!(tuned.weight.id(), layer.weight.id());
    let choice = tuned.path(8);
    assert_eq!(choice.path, ProductPath::Dense);
    let text = choice.to_string();
    assert!(text.contains("as measured at 64 x 128 and 16 rows"), "{text}");
    let off = (tuned.forward(x) - before).abs().max().into_scalar::<f32>();
    assert!(off < 1e-5, "the dense path is off by {off}");
    // No other layer has the table, and a later table replaces it, in training too.
    assert!(matches!(layer.path(8).reason, PathReason::CostModel { .. }));
    let tuned = tuning::apply(tuned.train(), &table(0.6));
    assert_eq!(tuned.path(8).path, ProductPath::Sparse);
    assert!(matches!(tuned.path(1).reason, PathReason::CostModel { .. }));
}

#[test]
fn every_size_of_a_model_is_measured_once_and_decides_from_then_on() {
    for engine in engines() {
        let device = engine.device.clone().autodiff();
        let model = layers(&device);
        let table = TuningTable::measure(&model, &[40, 1, 40, 0], &device).unwrap();
        let sizes: Vec<[usize; 4]> =
            table.entries.iter().map(|e| [e.block, e.d_input, e.d_output, e.rows]).collect();
        assert_eq!(sizes, [[16, 48, 64, 1], [16, 48, 64, 40], [16, 64, 48, 1], [16, 64, 48, 40]]);
        for entry in &table.entries {
            assert_eq!(entry.dtype, "f32");
            assert!((0.0..=1.0).contains(&entry.break_even_density), "{entry:?}");
        }
        let model = tuning::apply(model, &table);
        for (layer, size) in [(&model[0], [48, 64, 40]), (&model[1], [64, 48, 40])] {
            let reason = layer.path(40).reason;
            let measured =
                matches!(reason, PathReason::Measured { size: found, .. } if found == size);
            assert!(measured, "{}: {reason:?}", engine.name);
        }
    }
    let model = layers(&Device::flex());
    let measure =
        |model: &Vec<BlockSparseLinear>, rows| TuningTable::measure(model, rows, &Device::flex());
    assert!(matches!(measure(&model, &[0]), Err(TuningError::NothingToMeasure)));
    let small = quantize(model, Integer::Int8).unwrap();
    let error = measure(&small, &[1]).unwrap_err().to_string();
    assert!(error.contains("not quantised"), "{error}");
}
