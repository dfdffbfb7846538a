//! `Strategy::Auto` by measured break-even points.

mod common;

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use burn_blast::module::{BlockSparseLinear, BlockSparseLinearConfig, quantize};
use burn_blast::tuning::{self, BreakEven, PathReason, ProductPath, TuningError, TuningTable};
use common::engines;

#[derive(Module, Debug)]
struct Net {
    first: BlockSparseLinear,
    second: BlockSparseLinear,
    third: BlockSparseLinear,
}

fn net(device: &Device) -> Net {
    let layer = |d_input, d_output| {
        BlockSparseLinearConfig::new(d_input, d_output).with_block_size(16).init(device)
    };
    Net { first: layer(48, 64), second: layer(64, 48), third: layer(48, 64) }
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
        let model = net(&device);
        let table = TuningTable::measure(&model, &[40, 1, 40, 0], &device).unwrap();
        let sizes: Vec<[usize; 4]> =
            table.entries.iter().map(|e| [e.block, e.d_input, e.d_output, e.rows]).collect();
        assert_eq!(sizes, [[16, 48, 64, 1], [16, 48, 64, 40], [16, 64, 48, 1], [16, 64, 48, 40]]);
        for entry in &table.entries {
            assert_eq!(entry.dtype, "f32");
            assert!((0.0..=1.0).contains(&entry.break_even_density), "{entry:?}");
        }
        let model = tuning::apply(model, &table);
        for (layer, size) in [(&model.first, [48, 64, 40]), (&model.second, [64, 48, 40])] {
            let reason = layer.path(40).reason;
            let measured =
                matches!(reason, PathReason::Measured { size: found, .. } if found == size);
            assert!(measured, "{}: {reason:?}", engine.name);
        }
    }
    let model = net(&Device::flex());
    let measure = |model: &Net, rows| TuningTable::measure(model, rows, &Device::flex());
    assert!(matches!(measure(&model, &[0]), Err(TuningError::NothingToMeasure)));
    let error = measure(&quantize(model).unwrap(), &[1]).unwrap_err().to_string();
    assert!(error.contains("not quantised"), "{error}");
}
