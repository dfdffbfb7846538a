//! Adapters beside frozen block-sparse layers.

mod common;

use burn::module::{Module, Param};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Distribution, Tensor};
use burn_blast::io;
use burn_blast::module::{
    BlockSparseLinear, BlockSparseLinearConfig, LoraLinear, LoraLinearConfig,
};
use burn_blast::tuning::Strategy;
use common::{bits, descend, distance, engines, floats, uniform};

const D: usize = 40;
const OUT: usize = 24;

fn base(device: &Device, sparsity: f64) -> BlockSparseLinear {
    let config = BlockSparseLinearConfig::new(D, OUT).with_block_size(8).with_sparsity(sparsity);
    config.init(device).with_strategy(Strategy::Sparse)
}

fn adapter(device: &Device, sparsity: f64) -> LoraLinear {
    LoraLinearConfig::new(4).with_alpha(6.0).init(base(device, sparsity))
}

fn input(device: &Device) -> Tensor<2> {
    uniform([16, D], 3, device)
}

/// A step towards a target that the frozen layer cannot reach.
fn step(model: LoraLinear, optim: &mut ModuleOptimizer, device: &Device) -> (LoraLinear, f32) {
    let target = uniform([16, OUT], 4, device);
    let loss = (model.forward(input(device)) - target).square().mean();
    (descend(model, optim, 1e-2, &loss), loss.into_scalar())
}

#[test]
fn a_fresh_adapter_changes_nothing_whatever_the_rank_of_the_input() {
    for engine in engines() {
        let device = &engine.device;
        let layer = adapter(device, 0.5);
        let (x, want) = (input(device), layer.base.forward(input(device)));
        assert_eq!(bits(layer.forward(x.clone())), bits(want.clone()), "{}", engine.name);
        let deep = layer.forward(x.reshape([2, 2, 4, D]));
        assert_eq!(deep.dims(), [2, 2, 4, OUT]);
        assert!(distance(&floats(deep), &floats(want)) < 1e-6, "{}", engine.name);
    }
}

#[test]
fn gradients_reach_the_factors_only() {
    let device = Device::flex().autodiff();
    let layer = adapter(&device, 0.5);
    let loss = layer.forward(input(&device)).square().mean();
    let grads = GradientsParams::from_grads(loss.backward(), &layer);
    assert_eq!(grads.len(), 2);
    assert!(
        [&layer.lora_a, &layer.lora_b].iter().all(|factor| grads.get::<2>(factor.id).is_some())
    );
    // And it stays so when the model is switched between training and validation.
    let again = layer.valid().train();
    let loss = again.forward(input(&device)).square().mean();
    assert_eq!(GradientsParams::from_grads(loss.backward(), &again).len(), 2);
}

#[test]
fn training_lowers_the_loss_and_resumes_bitwise() {
    let device = Device::flex().autodiff();
    let folder = tempfile::tempdir().unwrap();
    let (weights, state) = (folder.path().join("model.bpk"), folder.path().join("optim.bpk"));
    let start = adapter(&device, 0.5);
    let frozen = bits(start.base.weight.values());
    let (mut model, mut optim) = (start, AdamWConfig::new().init());
    let mut losses = Vec::new();
    for at in 1..=40 {
        let loss;
        (model, loss) = step(model, &mut optim, &device);
        losses.push(loss);
        if at == 15 {
            io::save(&model, &weights).unwrap();
            io::save_optimizer(&optim, &state).unwrap();
        }
    }
    assert!(losses[39] < 0.9 * losses[0], "{losses:?}");
    assert_eq!(bits(model.base.weight.values()), frozen);

    // Other blocks, another bell, another scale: all of it is the file's.
    let fresh = LoraLinearConfig::new(4).init(base(&device, 0.25));
    let mut resumed = io::load(fresh, &weights).unwrap();
    let optim = AdamWConfig::new().init();
    let mut optim = io::load_optimizer(optim, &resumed, &state).unwrap();
    for _ in 16..=40 {
        (resumed, _) = step(resumed, &mut optim, &device);
    }
    assert_eq!(bits(resumed.lora_a.val()), bits(model.lora_a.val()));
    assert_eq!(bits(resumed.lora_b.val()), bits(model.lora_b.val()));
    assert_eq!(bits(resumed.base.weight.values()), frozen);
    assert_eq!(bits(resumed.forward(input(&device))), bits(model.forward(input(&device))));
}

#[test]
fn safetensors_files_hold_adapters_too() {
    let device = Device::flex();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut layer = adapter(&device, 0.5);
    layer.lora_b = Param::from_tensor(Tensor::random([4, OUT], Distribution::Default, &device));
    io::save_safetensors(&layer, &path).unwrap();
    let again = LoraLinearConfig::new(4).init(base(&device, 0.0));
    let again = io::load_safetensors(again, &path).unwrap();
    assert_eq!(bits(again.forward(input(&device))), bits(layer.forward(input(&device))));
}

#[test]
fn merging_keeps_the_function_where_there_is_room() {
    let device = Device::flex();
    for (sparsity, room) in [(0.0, true), (0.5, false)] {
        let mut layer = adapter(&device, sparsity);
        layer.lora_b = Param::from_tensor(Tensor::random([4, OUT], Distribution::Default, &device));
        let want = floats(layer.forward(input(&device)));
        let close = |found: Tensor<2>| distance(&floats(found), &want) < 1e-5;
        assert!(close(layer.clone().into_linear().forward(input(&device))));
        match layer.clone().merge_exact() {
            Ok(merged) => assert!(room && close(merged.forward(input(&device)))),
            Err(error) => {
                assert!(!room);
                let error = error.to_string();
                assert!(
                    error.contains("changes all of 15 blocks, of which the weight keeps 8"),
                    "{error}"
                );
                assert!(error.contains("into_linear") && error.contains("merge_within"), "{error}");
            }
        }
        let change = floats(layer.change());
        let (merged, lost) = layer.clone().merge_within();
        assert_eq!(merged.pattern(), layer.base.pattern());
        // The merged part and the lost part add up to the change.
        let took = floats(merged.to_dense() - layer.base.to_dense());
        let squares = |numbers: &[f32]| numbers.iter().map(|x| f64::from(x * x)).sum::<f64>();
        let share = 1.0 - squares(&took) / squares(&change);
        assert!((share - lost).abs() < 1e-5, "{share} and {lost}");
        assert_eq!(room, lost < 1e-6);
    }
}

#[test]
fn what_is_merged_trains_again_and_goes_the_same_way() {
    let device = Device::flex().autodiff();
    let config = BlockSparseLinearConfig::new(D, OUT).with_block_size(8).with_bias(true);
    let base = config.init(&device).with_strategy(Strategy::Dense);
    let layer = LoraLinearConfig::new(4).init(base);
    assert!(!layer.base.bias.as_ref().unwrap().val().is_require_grad());
    let merged = layer.clone().merge_exact().unwrap();
    assert!(merged.weight.values().is_require_grad());
    assert!(merged.bias.as_ref().unwrap().val().is_require_grad());
    assert_eq!(merged.path(16), layer.base.path(16));
    assert!(layer.into_linear().bias.unwrap().val().is_require_grad());
}

#[test]
#[should_panic(expected = "factors of [40, 4] and [3, 24] do not make a weight of [40, 24]")]
fn factors_that_do_not_fit_are_refused() {
    let device = Device::flex();
    let (a, b) = (Tensor::zeros([D, 4], &device), Tensor::zeros([3, OUT], &device));
    LoraLinear::new(base(&device, 0.5), a, b, Tensor::ones([1], &device));
}
