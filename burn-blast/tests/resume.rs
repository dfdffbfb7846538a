//! A resumed run is the unbroken one, bit for bit.

mod common;

use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::Device;
use burn_blast::io;
use burn_blast::prune::{Blast, BlastConfig, Budget, Score};
use common::bits;
use common::toy::{Net, step};

/// Everything that decides how training goes on, as bits.
fn fingerprint(model: &Net, optim: &ModuleOptimizer) -> (Vec<Vec<u32>>, Vec<String>) {
    let mut all = Vec::new();
    for layer in [&model.a, &model.b] {
        all.push(bits(layer.weight.values()));
        all.push(bits(layer.bias.as_ref().unwrap().val()));
        all.push(layer.pattern().row_idx().to_vec());
        all.push(layer.pattern().col_ptr().to_vec());
    }
    // The order of entries in an optimizer file is not fixed.
    let reader = burn_pack::Reader::from_bytes(optim.into_bytes().unwrap()).unwrap();
    let scalars = reader.scalars().iter().map(|(name, value)| format!("{name} = {value:?}"));
    let mut state: Vec<String> = scalars.collect();
    for tensor in reader.into_tensors().unwrap() {
        let (name, dtype, shape, _, bytes) = tensor.into_parts().unwrap();
        state.push(format!("{name} {dtype:?} {shape:?} {:?}", &bytes[..]));
    }
    state.sort_unstable();
    (all, state)
}

fn resumes_bitwise(config: BlastConfig, save_at: usize) {
    let device = Device::flex().autodiff();
    let blast = || Blast::new(AdamWConfig::new().build(), config.clone());
    let folder = tempfile::tempdir().unwrap();
    let (model_file, optim_file) =
        (folder.path().join("model.bpk"), folder.path().join("optim.bpk"));

    let (mut model, mut optim) = blast().attach(Net::new(&device)).unwrap();
    for at in 1..=60 {
        (model, _) = step(model, &mut optim, at, 3e-3, &device);
        if at == save_at {
            io::save(&model, &model_file).unwrap();
            io::save_optimizer(&optim, &optim_file).unwrap();
        }
    }
    let unbroken = fingerprint(&model, &optim);

    device.seed(99);
    let fresh = io::load(Net::new(&device), &model_file).unwrap();
    let (mut model, optim) = blast().attach(fresh).unwrap();
    let mut optim = io::load_optimizer(optim, &model, &optim_file).unwrap();
    for at in save_at + 1..=60 {
        (model, _) = step(model, &mut optim, at, 3e-3, &device);
    }
    let resumed = fingerprint(&model, &optim);
    assert!(unbroken.0 == resumed.0, "weights or pattern, saved at {save_at}");
    assert!(unbroken.1 == resumed.1, "optimizer state, saved at {save_at}");
}

#[test]
fn a_resumed_run_is_bitwise_the_unbroken_one() {
    let config = BlastConfig::new(60).with_sparsity(0.75).with_interval(10);
    // 29 and 41 are one step ahead of an update, so the probe must be restored.
    for save_at in [33, 29, 30, 41] {
        resumes_bitwise(config.clone(), save_at);
    }
}

#[test]
fn a_resumed_run_with_movement_scores_is_bitwise_the_unbroken_one() {
    let config = BlastConfig::new(60).with_sparsity(0.75).with_interval(10);
    resumes_bitwise(config.with_score(Score::Movement), 33);
}

#[test]
fn a_resumed_run_with_a_global_budget_is_bitwise_the_unbroken_one() {
    let config = BlastConfig::new(60).with_sparsity(0.75).with_interval(10);
    let config = config.with_budget(Budget::Global { min_density: 0.1, max_density: 0.9 });
    // 39 is where the scores of the update at 42 are gathered.
    for save_at in [33, 38, 39, 40, 41] {
        resumes_bitwise(config.clone(), save_at);
    }
}
