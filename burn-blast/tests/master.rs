//! Half-precision weights with single-precision copies: nothing small is lost, and blocks move together.

mod common;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{AdamWConfig, GradientsParams, Optimizer, SgdConfig, StateSink};
use burn::optim::{ModuleOptimizer, RecordState};
use burn::tensor::{DType, Device, Tensor};
use burn_blast::io;
use burn_blast::prune::{Blast, BlastConfig, Growth, LinearRule, MasterWeights, Score};
use common::toy::{BLOCK, Net, batch};
use common::{bits, distance, floats, tensor};

struct Cast(DType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.cast(self.0))
    }
}

/// Cast without autodiff: a cast is an operation, and its result no parameter.
fn half() -> Net {
    Net::new(&Device::flex()).map(&mut Cast(DType::BF16))
}

fn step(model: Net, optim: &mut ModuleOptimizer, at: usize, device: &Device) -> (Net, f32) {
    let (x, y) = batch(at, device);
    let output = model.forward(x.cast(DType::BF16)).cast(DType::F32);
    let loss = (output - y).square().mean();
    let value = loss.clone().into_scalar::<f32>();
    let grads = GradientsParams::from_grads(loss.backward(), &model);
    (optim.step(3e-3, model, grads), value)
}

/// The tensor of this name in the record of a state.
fn recorded(state: &impl RecordState, leaf: &str) -> Vec<f32> {
    let mut sink = StateSink::default();
    state.state_flatten("", &mut sink);
    let found = sink.tensors.into_iter().find(|(name, _)| name.ends_with(leaf));
    found.unwrap_or_else(|| panic!("no {leaf}")).1.iter::<f32>().collect()
}

#[test]
fn updates_below_the_last_bit_add_up() {
    let device = Device::flex();
    // The last bit of 1 is worth 2^-7; half of it is rounded away.
    let (steps, lr) = (100, 1e-3);
    let start = || tensor::<1>(&[1.0, -1.0, 0.0], [3], &device, DType::BF16);
    let grad = || tensor::<1>(&[1.0, -1.0, 1.0], [3], &device, DType::BF16);
    let plain = SgdConfig::new().build();
    let (mut lost, mut state) = (start(), None);
    for _ in 0..steps {
        (lost, state) = plain.step(lr, lost, grad(), state);
    }
    assert_eq!(floats(lost)[..2], [1.0, -1.0]);

    let wrapped = MasterWeights::new(SgdConfig::new().build());
    let (mut kept, mut state) = (start(), None);
    for _ in 0..steps {
        (kept, state) = wrapped.step(lr, kept, grad(), state);
        assert_eq!(kept.dtype(), DType::BF16);
        // The weight is the copy, rounded.
        let copy = recorded(state.as_ref().unwrap(), "master");
        let rounded = tensor::<1>(&copy, [3], &device, DType::BF16);
        assert_eq!(bits(kept.clone()), bits(rounded));
    }
    let copy = recorded(state.as_ref().unwrap(), "master");
    for (copy, want) in copy.iter().zip([0.9, -0.9, -0.1]) {
        assert!((copy - want).abs() < 1e-5, "{copy} is not {want}");
    }
}

#[test]
fn single_precision_weights_have_no_copy() {
    let device = Device::flex();
    let start = tensor::<1>(&[1.0, 2.0], [2], &device, DType::F32);
    let plain = AdamWConfig::new().build();
    let (bare, _) = plain.step(1e-2, start.clone(), start.clone(), None);
    let (same, state) = MasterWeights::new(plain).step(1e-2, start.clone(), start, None);
    assert_eq!(bits(bare), bits(same));
    let mut sink = StateSink::default();
    state.unwrap().state_flatten("", &mut sink);
    assert!(sink.tensors.iter().all(|(name, _)| !name.ends_with("master")), "{sink:?}");
}

#[test]
fn copies_follow_their_blocks_through_every_update() {
    let device = Device::flex().autodiff();
    for score in [Score::Frobenius, Score::Saliency, Score::Movement] {
        let config = BlastConfig::new(40).with_sparsity(0.75).with_interval(5).with_score(score);
        let blast = Blast::new(MasterWeights::new(AdamWConfig::new().build()), config);
        let (mut model, mut optim) = blast.attach(half().train()).unwrap();
        let (mut first, mut last) = (0.0, 0.0);
        for at in 1..=40 {
            (model, last) = step(model, &mut optim, at, &device);
            first = if at == 1 { last } else { first };
            let reader = burn_pack::Reader::from_bytes(optim.into_bytes().unwrap()).unwrap();
            for entry in reader.into_tensors().unwrap() {
                let (name, dtype, shape, id, bytes) = entry.into_parts().unwrap();
                assert!(dtype == DType::F32, "{name} is {dtype:?}");
                for layer in [&model.a, &model.b] {
                    if name.ends_with(".master") && id == Some(layer.weight.id().val()) {
                        let values = layer.weight.values();
                        let data = burn::tensor::TensorData::from_bytes(
                            bytes.clone(),
                            shape.clone(),
                            dtype,
                        );
                        let copy = Tensor::<3>::from_data(data, (&Device::flex(), DType::F32));
                        assert_eq!(
                            bits(copy.cast(DType::BF16)),
                            bits(values),
                            "{score:?} step {at}"
                        );
                    }
                }
            }
        }
        assert_eq!([model.a.sparsity(), model.b.sparsity()], [0.75, 0.75]);
        assert!(last < first, "{score:?}: {last} after {first}");
    }
}

#[test]
fn plain_layers_pruned_in_place_keep_their_copies_masked() {
    let device = Device::flex().autodiff();
    #[derive(Module, Debug)]
    struct Plain {
        a: burn::nn::Linear,
    }
    let model = Plain { a: half().a.into_linear() }.train();
    let rule = LinearRule { path: "a".to_string(), block_size: BLOCK };
    let config = BlastConfig::new(20).with_sparsity(0.75).with_interval(5);
    let config = config.with_linear(vec![rule]).with_growth(Growth::None);
    let blast = Blast::new(MasterWeights::new(AdamWConfig::new().build()), config);
    let (mut model, mut optim) = blast.attach(model).unwrap();
    for at in 1..=20 {
        let (x, y) = batch(at, &device);
        let output = model.a.forward(x.cast(DType::BF16)).cast(DType::F32);
        let grads = GradientsParams::from_grads((output - y).square().mean().backward(), &model);
        model = optim.step(3e-3, model, grads);
    }
    let packed = burn_blast::module::BlockSparseLinear::from_linear(&model.a, BLOCK).unwrap();
    assert_eq!(packed.sparsity(), 0.75);
}

#[test]
fn a_resumed_run_is_bitwise_the_unbroken_one() {
    let device = Device::flex().autodiff();
    let config = BlastConfig::new(30).with_sparsity(0.75).with_interval(5);
    let blast = || Blast::new(MasterWeights::new(AdamWConfig::new().build()), config.clone());
    let folder = tempfile::tempdir().unwrap();
    let (weights, state) = (folder.path().join("model.bpk"), folder.path().join("optim.bpk"));
    for save_at in [9, 10, 12] {
        let (mut model, mut optim) = blast().attach(half().train()).unwrap();
        for at in 1..=30 {
            (model, _) = step(model, &mut optim, at, &device);
            if at == save_at {
                io::save(&model, &weights).unwrap();
                io::save_optimizer(&optim, &state).unwrap();
            }
        }
        let fresh = io::load(half().train(), &weights).unwrap();
        let (mut resumed, optim) = blast().attach(fresh).unwrap();
        let mut optim = io::load_optimizer(optim, &resumed, &state).unwrap();
        for at in save_at + 1..=30 {
            (resumed, _) = step(resumed, &mut optim, at, &device);
        }
        for (one, other) in [(&model.a, &resumed.a), (&model.b, &resumed.b)] {
            assert_eq!(one.weight.dtype(), DType::BF16);
            assert!(one.pattern() == other.pattern(), "saved at {save_at}");
            assert_eq!(
                bits(one.weight.values()),
                bits(other.weight.values()),
                "saved at {save_at}"
            );
        }
    }
}

#[test]
fn half_precision_ranks_blocks_as_single_precision_does() {
    // Norms that differ by less than the last bit of bf16 must not tie.
    let device = Device::flex();
    let (model, other) = (Net::new(&device), half());
    let norms = |dense: Tensor<2>| {
        let block = burn_blast::BlockSize::new(BLOCK).unwrap();
        burn_blast::functions::dense_block_norms(dense, block)
    };
    let (single, half) = (norms(model.a.to_dense()), norms(other.a.to_dense()));
    assert!(distance(&half, &single) < 2e-3);
    let mut distinct: Vec<u32> = half.iter().map(|norm| norm.to_bits()).collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() > half.len() - 3, "{} of {}", distinct.len(), half.len());
}
