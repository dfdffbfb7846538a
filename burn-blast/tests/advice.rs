//! `Strategy::Auto` by measurement. One file, one test: advice is for all layers of a process.

use burn::tensor::{Device, Distribution, Tensor};
use burn_blast::advice::{DeviceAdvice, Entry};
use burn_blast::{BlockSparseLinearConfig, PathReason, ProductPath};

#[test]
fn an_installed_measurement_decides_and_is_named() {
    let device = Device::flex();
    let layer = BlockSparseLinearConfig::new(64, 128).with_block_size(16).with_sparsity(0.5);
    let layer = layer.init(&device);
    assert!(matches!(layer.path(8).reason, PathReason::CostModel { .. }));
    let x = Tensor::<2>::random([8, 64], Distribution::Default, &device);
    let before = layer.forward(x.clone());
    let advise = |break_even_density| DeviceAdvice {
        device: String::new(),
        backend: "flex".to_owned(),
        features: Vec::new(),
        entries: vec![Entry {
            block: 16,
            dtype: "f32".to_owned(),
            d_input: 64,
            d_output: 128,
            rows: 16,
            break_even_density,
            at_least: false,
        }],
    };
    advise(0.4).install(&device);
    let choice = layer.path(8);
    assert_eq!(choice.path, ProductPath::Dense);
    let text = choice.to_string();
    assert!(text.contains("as measured at 64 x 128 and 16 rows"), "{text}");
    let off = (layer.forward(x) - before).abs().max().into_scalar::<f32>();
    assert!(off < 1e-5, "the dense path is off by {off}");
    // The later advice replaces the first, and holds for a training device too.
    advise(0.6).install(&device.autodiff());
    assert_eq!(layer.path(8).path, ProductPath::Sparse);
    assert!(matches!(layer.path(1).reason, PathReason::CostModel { .. }));
}
