//! Weights of integers on every backend that has them: products, gradients, files and refusals.

mod common;

use burn::module::{Module, Param};
use burn::nn::LinearConfig;
use burn::optim::AdamWConfig;
use burn::tensor::quantization::{Calibration, compute_q_params, compute_range};
use burn::tensor::{DType, Device, Distribution, Tensor};
use burn_blast::functions::{block_norms, pack, spmm, spmm_probed, spmm_t, unpack};
use burn_blast::module::{
    AnyLinear, BlockSparseGatedMlpConfig, BlockSparseLinear, BlockSparseLinearConfig,
    BlockSparseWeight, Integer, LoraLinearConfig, quantize,
};
use burn_blast::prune::{Blast, BlastConfig};
use burn_blast::tuning::Strategy;
use burn_blast::{BlockPattern, io, report};
use burn_blast_kernels::reference::{self, Rounding};
use common::saved::net;
use common::{Engine, bits, distance, dtypes, engines, floats, numbers, pattern, tensor, uniform};

/// A layer whose first block, if there is one, is all zero.
fn layer(pattern: &BlockPattern, device: &Device) -> BlockSparseLinear {
    let (rows, cols) = (pattern.shape().rows(), pattern.shape().cols());
    let mut dense = numbers(rows * cols, 1);
    if let Some((row, col)) = pattern.blocks().next() {
        let b = pattern.block().get();
        for line in dense.chunks_mut(cols).skip(row * b).take(b) {
            line[col * b..cols.min((col + 1) * b)].fill(0.0);
        }
    }
    let dense = tensor::<2>(&dense, [rows, cols], device, DType::F32);
    let mut layer = BlockSparseLinear::from_dense(dense, pattern.clone());
    let bias = uniform([cols], 2, device);
    layer.bias = Some(Param::from_tensor(bias));
    layer
}

/// What the integers stand for.
fn meant(layer: &BlockSparseLinear) -> Vec<f32> {
    floats(pack(layer.to_dense(), layer.pattern()))
}

/// Every backend with the integers it has.
fn cases() -> Vec<(Engine, Integer)> {
    let four = engines().into_iter().filter(|engine| engine.device == Device::flex());
    let four = four.map(|engine| (engine, Integer::Int4));
    engines().into_iter().map(|engine| (engine, Integer::Int8)).chain(four).collect()
}

fn patterns(slow: bool) -> Vec<BlockPattern> {
    let mut patterns = vec![
        pattern(48, 80, 16, 0.5, 1),
        pattern(19, 37, 8, 0.4, 2),
        pattern(70, 100, 32, 1.0, 3),
        pattern(33, 17, 16, 0.0, 4),
        pattern(9, 5, 8, 1.0, 5),
    ];
    if !slow {
        patterns.extend([pattern(128, 192, 64, 0.5, 6), pattern(130, 300, 128, 0.6, 7)]);
    }
    patterns
}

#[test]
fn products_equal_products_with_the_dequantised_values() {
    for (engine, integer) in cases() {
        for pattern in patterns(engine.slow) {
            let layer = quantize(layer(&pattern, &engine.device), integer).unwrap();
            assert_eq!(layer.weight.is_quantized(), pattern.nnz() > 0);
            let (rows, cols) = (pattern.shape().rows(), pattern.shape().cols());
            let (w, bias) = (meant(&layer), numbers(cols, 2));
            for m in [1, 2, 15, 16, 17, 33] {
                let x = numbers(m * rows, 3);
                let input = tensor::<2>(&x, [m, rows], &engine.device, DType::F32);
                let exact = reference::spmm(&x, &w, Some(&bias), &pattern);
                let y = floats(layer.forward(input));
                // A single row is rounded to 16 bits.
                let rounding = match integer {
                    Integer::Int4 if m == 1 => Rounding { input: 1e-4, ..Rounding::F32 },
                    _ => Rounding::F32,
                };
                if let Err(message) = rounding.check(&y, &exact) {
                    panic!("{}, {pattern:?}, {m} rows: {message}", engine.name);
                }
            }
        }
    }
}

#[test]
fn inputs_in_half_precision_stay_so() {
    for (engine, integer) in cases() {
        let pattern = pattern(48, 80, 16, 0.5, 1);
        let mut layer = quantize(layer(&pattern, &engine.device), integer).unwrap();
        layer.bias = None;
        let w = meant(&layer);
        for dtype in dtypes(&engine).into_iter().filter(|&dtype| dtype != DType::F32) {
            for m in [1, 17] {
                let input = tensor::<2>(&numbers(m * 48, 3), [m, 48], &engine.device, dtype);
                let x = floats(input.clone());
                let y = layer.forward(input);
                assert_eq!(y.dtype(), dtype);
                let exact = reference::spmm(&x, &w, None, &pattern);
                let exact: Vec<f32> = exact.iter().map(|exact| exact.value as f32).collect();
                let off = distance(&floats(y), &exact);
                let limit = if dtype == DType::F16 { 2e-3 } else { 2e-2 };
                assert!(off < limit, "{}, {dtype:?}, {m} rows: off by {off}", engine.name);
            }
        }
    }
}

#[test]
fn a_layer_in_half_precision_stays_in_half_precision() {
    for (engine, integer) in cases() {
        for dtype in dtypes(&engine).into_iter().filter(|&dtype| dtype != DType::F32) {
            let mut plain = layer(&pattern(48, 80, 16, 0.5, 1), &engine.device);
            let values = plain.weight.values().cast(dtype);
            plain.weight = BlockSparseWeight::new(values, plain.pattern().clone());
            plain.bias = plain.bias.map(|bias| bias.map(|bias| bias.cast(dtype)));
            let small = quantize(plain.clone(), integer).unwrap();
            small.warm_up(&[1, 20]).unwrap();
            for m in [0, 1, 17] {
                let x = tensor::<2>(&numbers(m * 48, 3), [m, 48], &engine.device, dtype);
                let want = floats(plain.forward(x.clone()));
                let dense = small.clone().with_strategy(Strategy::Dense);
                let adapted = LoraLinearConfig::new(2).init(small.clone());
                let all = AnyLinear::Sparse(small.clone()).submatrix(&[true; 48], &[true; 80]);
                let results = [
                    small.forward(x.clone()),
                    dense.forward(x.clone()),
                    adapted.forward(x.clone()),
                    all.forward(x.clone()),
                    small.clone().into_linear().forward(x),
                ];
                for (at, y) in results.into_iter().enumerate() {
                    assert_eq!((y.dtype(), y.dims()), (dtype, [m, 80]), "{}", engine.name);
                    // Half a step of 127 or 15, over some 24 terms, and the rounding of the type.
                    let off = distance(&floats(y), &want);
                    let limit = if integer == Integer::Int8 { 3e-2 } else { 0.3 };
                    assert!(off < limit, "{}, {dtype:?}, {m} rows, {at}: {off}", engine.name);
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "bias must have shape [80]")]
fn a_bias_of_another_size_is_refused() {
    let device = Device::flex();
    let small = quantize(layer(&pattern(48, 80, 16, 0.5, 1), &device), Integer::Int8).unwrap();
    let bias = Some(Tensor::ones([1], &device));
    spmm(Tensor::ones([2, 48], &device), small.weight.values(), bias, small.pattern());
}

#[test]
fn every_value_is_off_by_at_most_half_a_step_of_its_block() {
    for engine in engines() {
        let pattern = pattern(48, 80, 16, 0.5, 1);
        let layer = layer(&pattern, &engine.device);
        let before = floats(layer.weight.values());
        let after = meant(&quantize(layer, Integer::Int8).unwrap());
        for (at, (before, after)) in before.chunks(256).zip(after.chunks(256)).enumerate() {
            let largest = before.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
            let half = largest / 127.0 / 2.0 * 1.0001;
            let off = before.iter().zip(after).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off <= half, "{}, block {at}: off by {off}, step / 2 is {half}", engine.name);
            assert!(largest == 0.0 || off > 0.0, "{}, block {at} was not rounded", engine.name);
        }
    }
}

#[test]
fn a_quarter_of_the_bytes_or_less_is_held_and_reported() {
    let device = Device::flex();
    let pattern = pattern(256, 256, 32, 0.5, 1);
    let layer = layer(&pattern, &device);
    let small = quantize(layer.clone(), Integer::Int8).unwrap();
    let index = pattern.index_bytes();
    assert_eq!(layer.bytes() - index, 4 * pattern.value_count());
    assert_eq!(small.bytes() - index, pattern.value_count() + 4 * pattern.nnz());
    let smaller = quantize(layer.clone(), Integer::Int4).unwrap();
    assert_eq!(smaller.bytes() - index, pattern.value_count() * 5 / 8 + 4);
    for small in [small, smaller] {
        let summary = report::summary(&small);
        assert_eq!((summary.bytes(), summary.dense_bytes()), (small.bytes(), 4 * 256 * 256));
    }
}

#[test]
fn gradients_pass_through_to_the_input() {
    for (engine, integer) in cases() {
        let device = engine.device.clone().autodiff();
        let pattern = pattern(48, 80, 16, 0.5, 1);
        let layer = quantize(layer(&pattern, &device), integer).unwrap();
        for m in [2, 17] {
            let dense = layer.to_dense();
            let bias = layer.bias.as_ref().unwrap().val();
            let results = |forward: &dyn Fn(Tensor<2>) -> Tensor<2>| {
                let x = uniform([m, 48], 3, &device);
                let x = x.require_grad();
                let y = forward(x.clone());
                let c = uniform([m, 80], 4, &device);
                let grads = (y * c).sum().backward();
                assert!(bias.grad(&grads).is_some());
                floats(x.grad(&grads).unwrap())
            };
            let sparse = results(&|x| layer.forward(x));
            let dense = results(&|x| x.matmul(dense.clone()) + bias.clone().unsqueeze());
            let off = distance(&sparse, &dense);
            assert!(off < 1e-5, "{}, {m} rows: off by {off}", engine.name);
        }
    }
}

#[test]
fn a_gated_block_of_integers_equals_the_dequantised_block() {
    for (engine, integer) in cases() {
        let config = BlockSparseGatedMlpConfig::new(64, 96).with_block_size(16);
        let block = quantize(config.with_sparsity(0.5).init(&engine.device), integer).unwrap();
        let mut plain = block.clone();
        for layer in [&mut plain.gate, &mut plain.up, &mut plain.down] {
            *layer = BlockSparseLinear::from_dense(layer.to_dense(), layer.pattern().clone());
        }
        for m in [1, 20] {
            let x = Tensor::<2>::random([m, 64], Distribution::Default, &engine.device);
            let off = distance(&floats(block.forward(x.clone())), &floats(plain.forward(x)));
            assert!(
                off < if m == 1 { 1e-4 } else { 1e-5 },
                "{}, {m} rows: off by {off}",
                engine.name
            );
        }
    }
}

#[test]
fn an_adapter_learns_beside_integers() {
    for (engine, integer) in cases() {
        let device = engine.device.clone().autodiff();
        let base = quantize(layer(&pattern(48, 80, 16, 0.5, 1), &device), integer).unwrap();
        let before = meant(&base);
        let adapter = LoraLinearConfig::new(4).init(base);
        let x = uniform([3, 48], 3, &device);
        let grads = adapter.forward(x).square().sum().backward();
        assert!(adapter.lora_b.val().grad(&grads).is_some(), "{}", engine.name);
        assert!(adapter.base.weight.is_quantized(), "{}", engine.name);
        let (merged, _) = adapter.merge_within();
        assert!(!merged.weight.is_quantized(), "{}", engine.name);
        assert_eq!(floats(merged.weight.values()), before, "{}", engine.name);
    }
}

#[test]
fn a_file_written_on_one_backend_loads_on_every_other() {
    let (engines, other) = (engines(), engines());
    for writer in &engines {
        let model = quantize(net(0.5, 1, &writer.device), Integer::Int8).unwrap();
        let bytes = io::to_bytes(&model).unwrap();
        for reader in &other {
            let case = format!("from {} to {}", writer.name, reader.name);
            // Into a model that keeps other blocks, and into one that is quantised itself.
            let fresh = net(0.0, 2, &reader.device);
            for fresh in [fresh.clone(), quantize(fresh, Integer::Int8).unwrap()] {
                let loaded = io::from_bytes(fresh, bytes.clone()).unwrap();
                assert!(loaded.a.weight.is_quantized(), "{case}");
                assert_eq!(loaded.a.pattern(), model.a.pattern(), "{case}");
                assert_eq!(meant(&loaded.a), meant(&model.a), "{case}");
                let on = |device| uniform([2, model.a.pattern().shape().rows()], 3, device);
                let there = floats(model.a.forward(on(&writer.device)));
                let off = distance(&floats(loaded.a.forward(on(&reader.device))), &there);
                assert!(off < 1e-5, "{case}: off by {off}");
            }
        }
    }
}

#[test]
fn a_file_of_plain_numbers_loads_into_a_quantised_model() {
    let device = Device::flex();
    let model = net(0.5, 1, &device);
    let target = quantize(net(0.0, 2, &device), Integer::Int8).unwrap();
    let loaded = io::from_bytes(target, io::to_bytes(&model).unwrap()).unwrap();
    assert_eq!(bits(loaded.a.weight.values()), bits(model.a.weight.values()));
}

/// Backends without 4-bit integers take them as floats, from a file and from another device.
#[test]
fn four_bits_become_floats_where_there_are_none() {
    let model = quantize(net(0.5, 1, &Device::flex()), Integer::Int4).unwrap();
    let bytes = io::to_bytes(&model).unwrap();
    let meant: Vec<f32> = floats(model.a.to_dense());
    for engine in engines() {
        let there = engine.device == Device::flex();
        let expected = there.then_some(Integer::Int4);
        let target = net(0.0, 2, &engine.device);
        let loaded = io::from_bytes(target.clone(), bytes.clone()).unwrap();
        for moved in
            [loaded, model.clone().to_device(&engine.device), model.clone().fork(&engine.device)]
        {
            assert_eq!(moved.a.weight.integer(), expected, "{}", engine.name);
            assert_eq!(moved.a.pattern(), model.a.pattern(), "{}", engine.name);
            assert_eq!(floats(moved.a.to_dense()), meant, "{}", engine.name);
        }
        if !there {
            let message = quantize(target, Integer::Int4).unwrap_err().to_string();
            assert!(message.contains("Device::flex"), "{}: {message}", engine.name);
        }
    }
    // A model of 16 bits stays one.
    for dtype in dtypes(&engines()[0]) {
        let plain = common::cast(net(0.5, 1, &Device::flex()), dtype);
        let eight = quantize(plain.clone(), Integer::Int8).unwrap();
        let twice = quantize(eight, Integer::Int4).unwrap();
        assert_eq!(twice.a.to_dense().dtype(), dtype);
        let model = quantize(plain, Integer::Int4).unwrap();
        for engine in engines().into_iter().filter(|engine| dtypes(engine).contains(&dtype)) {
            let target = net(0.0, 2, &engine.device);
            let loaded = io::from_bytes(target, io::to_bytes(&model).unwrap()).unwrap();
            let moved = model.clone().to_device(&engine.device);
            for (at, net) in [loaded, moved].into_iter().enumerate() {
                assert_eq!(net.a.to_dense().dtype(), dtype, "{}, {at}", engine.name);
                let x = tensor::<2>(&numbers(40, 3), [2, 20], &engine.device, dtype);
                assert_eq!(net.a.forward(x).dtype(), dtype, "{}, {at}", engine.name);
            }
        }
    }
    // Into a model that has 4 or 8 bits itself.
    for integer in [Integer::Int8, Integer::Int4] {
        let target = quantize(net(0.0, 2, &Device::flex()), integer).unwrap();
        let loaded = io::from_bytes(target, bytes.clone()).unwrap();
        assert_eq!(loaded.a.weight.integer(), Some(Integer::Int4));
        assert_eq!(floats(loaded.a.to_dense()), meant);
        let values = |net: &common::saved::Net| net.a.weight.values().into_data();
        assert_eq!(values(&loaded).bytes(), values(&model).bytes());
    }
}

#[test]
fn four_bits_leave_less_than_a_ninth_of_the_range_of_a_column() {
    let pattern = pattern(130, 300, 128, 0.6, 7);
    let layer = layer(&pattern, &Device::flex());
    let before = floats(layer.weight.values());
    let after = meant(&quantize(layer, Integer::Int4).unwrap());
    let off = distance(&before, &after);
    // The numbers are between -1 and 1.
    assert!(off > 0.01 && off < 2.0 / 9.0 + 1.0 / 128.0, "{off}");
}

#[test]
fn walks_that_keep_the_values_keep_them_quantised() {
    for (engine, integer) in cases() {
        let device = engine.device.clone().autodiff();
        let layer = quantize(layer(&pattern(48, 80, 16, 0.5, 1), &device), integer).unwrap();
        let before = meant(&layer);
        let valid = layer.valid();
        assert!(valid.weight.is_quantized() && meant(&valid) == before, "{}", engine.name);
        let walked =
            [layer.clone().to_device(&device), layer.clone().fork(&device), layer.valid().train()];
        for (at, layer) in walked.iter().enumerate() {
            let same = layer.weight.is_quantized() && meant(layer) == before;
            assert!(same, "{}, walk {at}", engine.name);
        }
        layer.warm_up(&[1, 20]).unwrap();
        let twice = quantize(layer, integer).unwrap();
        let limit = if integer == Integer::Int8 { 1e-6 } else { 4e-3 };
        assert!(distance(&meant(&twice), &before) < limit, "{}", engine.name);
    }
}

/// Functions that take values take these too, as floats.
#[test]
fn every_function_reads_four_bits_as_what_they_mean() {
    let device = Device::flex();
    for pattern in patterns(false) {
        let layer = quantize(layer(&pattern, &device), Integer::Int4).unwrap();
        let (values, plain) = (layer.weight.values(), pack(layer.to_dense(), &pattern));
        let dy = uniform([3, pattern.shape().cols()], 5, &device);
        let x = uniform([3, pattern.shape().rows()], 5, &device);
        let probe = || Tensor::zeros([pattern.block_rows(), pattern.block_cols()], &device);
        for [four, float] in [
            [values.clone(), plain.clone()].map(|values| spmm_t(dy.clone(), values, &pattern)),
            [values.clone(), plain.clone()].map(|values| unpack(values, &pattern)),
            [values.clone(), plain.clone()]
                .map(|values| spmm_probed(x.clone(), values, probe(), &pattern)),
        ] {
            assert_eq!(bits(four), bits(float), "{pattern:?}");
        }
        let [four, float] = [values, plain].map(|values| bits(block_norms(values, &pattern)));
        assert_eq!(four, float, "{pattern:?}");
    }
}

#[test]
fn what_cannot_be_done_says_so() {
    let device = Device::flex();
    let dense = LinearConfig::new(8, 8).init(&device);
    let message = quantize(dense, Integer::Int8).unwrap_err().to_string();
    assert!(message.contains("no block-sparse weight"), "{message}");

    let model = quantize(net(0.5, 1, &device), Integer::Int8).unwrap();
    let blast = || Blast::new(AdamWConfig::new().build(), BlastConfig::new(10).with_interval(2));
    let message = blast().attach(model.clone()).err().unwrap().to_string();
    assert!(message.contains("\"a\" is quantised: prune first"), "{message}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let four = quantize(net(0.5, 1, &device), Integer::Int4).unwrap();
    for model in [&model, &four] {
        let packed = io::save_safetensors(model, &path).unwrap_err();
        let dense = io::Export::new(model).dense().write(&path).unwrap_err();
        for message in [packed.to_string(), dense.to_string()] {
            assert!(message.contains("save with io::save") && !path.exists(), "{message}");
        }
    }

    // One scale for all blocks.
    let layer =
        quantize(BlockSparseLinearConfig::new(32, 32).init(&device), Integer::Int8).unwrap();
    let mut coarse = BlockSparseLinearConfig::new(32, 32).init(&device);
    coarse.weight = coarse.weight.map(&mut Coarse);
    let bytes = io::to_bytes(&coarse).unwrap();
    let error = io::from_bytes(layer, bytes).unwrap_err().to_string();
    assert!(error.contains("is quantised otherwise than by 8- or 4-bit integers"), "{error}");
}

/// Quantises by one scale for all.
struct Coarse;

impl burn::module::ModuleMapper for Coarse {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            let scheme = Device::flex().settings().quantization.scheme;
            let range = compute_range(&scheme, &tensor, &Calibration::MinMax);
            tensor.quantize(&scheme, compute_q_params(&scheme, range))
        })
    }
}
