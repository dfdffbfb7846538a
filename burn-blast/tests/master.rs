//! Half-precision weights with single-precision copies: nothing small is lost, and blocks move together.

mod common;

use burn::module::Module;
use burn::optim::{AdamWConfig, Optimizer, RecordState, SgdConfig, StateSink};
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_blast::prune::{Blast, BlastConfig, Growth, LinearRule, MasterWeights, Score};
use common::toy::{BLOCK, Net, batch, config, step};
use common::{bits, descend, distance, floats, tensor};

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
        let inner = MasterWeights::new(AdamWConfig::new().build());
        let blast = Blast::new(inner, config(40).with_score(score));
        let (mut model, mut optim) = blast.attach(Net::half()).unwrap();
        let (mut first, mut last) = (0.0, 0.0);
        for at in 1..=40 {
            (model, last) = step(model, &mut optim, at, 3e-3, &device);
            first = if at == 1 { last } else { first };
            let reader = burn_pack::Reader::from_bytes(optim.into_bytes().unwrap()).unwrap();
            for entry in reader.into_tensors().unwrap() {
                let (name, dtype, shape, id, bytes) = entry.into_parts().unwrap();
                assert!(dtype == DType::F32, "{name} is {dtype:?}");
                for layer in [&model.a, &model.b] {
                    if name.ends_with(".master") && id == Some(layer.weight.id().val()) {
                        let data = TensorData::from_bytes(bytes.clone(), shape.clone(), dtype);
                        let copy = Tensor::<3>::from_data(data, (&Device::flex(), DType::F32));
                        let (copy, values) = (copy.cast(DType::BF16), layer.weight.values());
                        assert_eq!(bits(copy), bits(values), "{score:?} step {at}");
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
    let model = Plain { a: Net::half().valid().a.into_linear() }.train();
    let rule = LinearRule { path: "a".to_string(), block_size: BLOCK };
    let config = BlastConfig::new(20).with_sparsity(0.75).with_interval(5);
    let config = config.with_linear(vec![rule]).with_growth(Growth::None);
    let blast = Blast::new(MasterWeights::new(AdamWConfig::new().build()), config);
    let (mut model, mut optim) = blast.attach(model).unwrap();
    for at in 1..=20 {
        let (x, y) = batch(at, &device);
        let output = model.a.forward(x.cast(DType::BF16)).cast(DType::F32);
        model = descend(model, &mut optim, 3e-3, &(output - y).square().mean());
    }
    let packed = burn_blast::module::BlockSparseLinear::from_linear(&model.a, BLOCK).unwrap();
    assert_eq!(packed.sparsity(), 0.75);
}

#[test]
fn half_precision_ranks_blocks_as_single_precision_does() {
    // Norms that differ by less than the last bit of bf16 must not tie.
    let device = Device::flex();
    let (model, other) = (Net::new(&device), Net::half().valid());
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
