//! A resumed run is the unbroken one, bit for bit, and files that earlier versions wrote still load and give the same
//! outputs.

mod common;

use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::Device;
use burn_blast::io;
use burn_blast::prune::{Blast, BlastConfig, BlockOptimizer, Budget, Growth, MasterWeights, Score};
use common::saved::{self, content, net};
use common::toy::{Net, step};
use common::{descend, uniform};

/// The state of an optimizer as text.
fn state(optim: &ModuleOptimizer) -> Vec<String> {
    // The order of entries in an optimizer file is not fixed.
    let reader = burn_pack::Reader::from_bytes(optim.into_bytes().unwrap()).unwrap();
    let scalars = reader.scalars().iter().map(|(name, value)| format!("{name} = {value:?}"));
    let mut state: Vec<String> = scalars.collect();
    for tensor in reader.into_tensors().unwrap() {
        let (name, dtype, shape, _, bytes) = tensor.into_parts().unwrap();
        state.push(format!("{name} {dtype:?} {shape:?} {:?}", &bytes[..]));
    }
    state.sort_unstable();
    state
}

fn resumes_bitwise<O: BlockOptimizer>(
    inner: &O,
    config: &BlastConfig,
    start: impl Fn() -> Net,
    save_at: usize,
) {
    let device = Device::flex().autodiff();
    let blast = || Blast::new(inner.clone(), config.clone());
    let folder = tempfile::tempdir().unwrap();
    let (model_file, optim_file) =
        (folder.path().join("model.bpk"), folder.path().join("optim.bpk"));

    let (mut model, mut optim) = blast().attach(start()).unwrap();
    for at in 1..=config.total_steps {
        (model, _) = step(model, &mut optim, at, 3e-3, &device);
        if at == save_at {
            io::save(&model, &model_file).unwrap();
            io::save_optimizer(&optim, &optim_file).unwrap();
        }
    }
    let unbroken = (model.content(), state(&optim));

    let fresh = io::load(start(), &model_file).unwrap();
    let (mut model, optim) = blast().attach(fresh).unwrap();
    let mut optim = io::load_optimizer(optim, &model, &optim_file).unwrap();
    for at in save_at + 1..=config.total_steps {
        (model, _) = step(model, &mut optim, at, 3e-3, &device);
    }
    assert!(model.content() == unbroken.0, "weights or pattern, saved at {save_at}");
    assert!(state(&optim) == unbroken.1, "optimizer state, saved at {save_at}");
}

fn config() -> BlastConfig {
    BlastConfig::new(60).with_sparsity(0.75).with_interval(10)
}

fn start() -> Net {
    Net::new(&Device::flex().autodiff())
}

#[test]
fn a_resumed_run_is_bitwise_the_unbroken_one() {
    // 29 and 41 are one step ahead of an update, so the probe must be restored.
    for save_at in [33, 29, 30, 41] {
        resumes_bitwise(&AdamWConfig::new().build(), &config(), start, save_at);
    }
}

#[test]
fn a_resumed_run_with_movement_scores_is_bitwise_the_unbroken_one() {
    let config = config().with_score(Score::Movement);
    resumes_bitwise(&AdamWConfig::new().build(), &config, start, 33);
}

#[test]
fn a_resumed_run_with_a_grace_time_is_bitwise_the_unbroken_one() {
    let config = config().with_grace(15).with_growth(Growth::Random);
    resumes_bitwise(&AdamWConfig::new().build(), &config, start, 33);
}

#[test]
fn a_resumed_run_with_a_global_budget_is_bitwise_the_unbroken_one() {
    let config = config().with_budget(Budget::Global { min_density: 0.1, max_density: 0.9 });
    // 39 is where the scores of the update at 42 are gathered.
    for save_at in [33, 38, 39, 40, 41] {
        resumes_bitwise(&AdamWConfig::new().build(), &config, start, save_at);
    }
}

#[test]
fn a_resumed_run_in_half_precision_is_bitwise_the_unbroken_one() {
    let inner = MasterWeights::new(AdamWConfig::new().build());
    let config = BlastConfig::new(30).with_sparsity(0.75).with_interval(5);
    for save_at in [9, 10, 12] {
        resumes_bitwise(&inner, &config, Net::half, save_at);
    }
}

/// `tests/data` holds a model in both formats and the state of its optimizer, one step before an update of the pattern,
/// so that a probe is recorded too. The code of commit fea8968 wrote them, and printed these numbers: the mean square
/// of the outputs after loading, and after each of three more steps. One of these updates the pattern.
const EXPECTED: [f32; 4] = [0.011503481, 0.010645106, 0.011822286, 0.013235644];

/// Step that the files were written after.
const SAVED_AT: u64 = 11;

fn data(name: &str) -> String {
    format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn files_of_an_earlier_version_give_the_outputs_that_they_gave() {
    let device = Device::flex().autodiff();
    let model = io::load(net(0.0, 2, &device), data("model.bpk")).unwrap();
    let other = io::load_safetensors(net(0.9, 3, &device), data("model.safetensors")).unwrap();
    assert_eq!(content(&model), content(&other));
    assert_eq!(model.a.pattern(), other.a.pattern());

    let config = BlastConfig::new(20).with_sparsity(0.5).with_interval(4).with_end_fraction(0.8);
    let blast = Blast::new(AdamWConfig::new().build(), config);
    let (mut model, optimizer) = blast.attach(model).unwrap();
    let mut optimizer = io::load_optimizer(optimizer, &model, data("optimizer.bpk")).unwrap();
    let output = |model: &saved::Net, at| model.forward(uniform([8, 4], at, &device));
    let mean_square = |model: &saved::Net| output(model, 0).square().mean().into_scalar::<f32>();
    let (pattern, mut found) = (model.a.pattern().clone(), vec![mean_square(&model)]);
    for at in SAVED_AT + 1..=SAVED_AT + 3 {
        let loss = (output(&model, at) - uniform([8, 16], 100 + at, &device)).square().mean();
        model = descend(model, &mut optimizer, 1e-2, &loss);
        found.push(mean_square(&model));
    }
    assert_ne!(*model.a.pattern(), pattern);
    for (found, expected) in found.iter().zip(EXPECTED) {
        assert!((found - expected).abs() < 1e-5 * expected, "{found} instead of {expected}");
    }
}
