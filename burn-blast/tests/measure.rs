//! `Strategy::Auto` by a measurement of its own. One file, one test: advice is for all layers of a process.

mod common;

use burn::module::Module;
use burn::tensor::Device;
use burn_blast::advice::{DeviceAdvice, MeasureError};
use burn_blast::{BlockSparseLinear, BlockSparseLinearConfig, PathReason, quantize};
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
fn every_size_of_a_model_is_measured_once_and_decides_from_then_on() {
    for engine in engines() {
        let device = engine.device.clone().autodiff();
        let model = net(&device);
        let advice = DeviceAdvice::measure(&model, &[40, 1, 40, 0], &device).unwrap();
        let sizes: Vec<[usize; 4]> =
            advice.entries.iter().map(|e| [e.block, e.d_input, e.d_output, e.rows]).collect();
        assert_eq!(sizes, [[16, 48, 64, 1], [16, 48, 64, 40], [16, 64, 48, 1], [16, 64, 48, 40]]);
        for entry in &advice.entries {
            assert_eq!(entry.dtype, "f32");
            assert!((0.0..=1.0).contains(&entry.break_even_density), "{entry:?}");
        }
        advice.install(&device);
        for (layer, size) in [(&model.first, [48, 64, 40]), (&model.second, [64, 48, 40])] {
            let reason = layer.path(40).reason;
            let measured =
                matches!(reason, PathReason::Measured { size: found, .. } if found == size);
            assert!(measured, "{}: {reason:?}", engine.name);
        }
    }
    let model = net(&Device::flex());
    let message = |result: Result<DeviceAdvice, MeasureError>| result.unwrap_err().to_string();
    let none = message(DeviceAdvice::measure(&model, &[0], &Device::flex()));
    assert!(none.contains("rows a number above 0"), "{none}");
    let quantised = quantize(model).unwrap();
    let none = message(DeviceAdvice::measure(&quantised, &[1], &Device::flex()));
    assert!(none.contains("not quantised"), "{none}");
}
