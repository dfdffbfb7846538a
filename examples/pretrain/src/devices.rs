//! The experiment's sparse run on a GPU against the same run on the CPU.

use std::fs;

use burn::tensor::{Device, DeviceKind, Tensor};

use crate::config::Config;
use crate::corpus::Text;
use crate::store::{Phase, Store};
use crate::training::Experiment;

const STEPS: usize = 50;

/// The experiment, small enough for a software GPU, which compiles every kernel for seconds.
fn tiny() -> Config {
    Config {
        steps: STEPS,
        interval: 10,
        d_model: 32,
        d_ff: 64,
        layers: 2,
        heads: 2,
        context: 16,
        batch: 3,
        block: 16,
        ..Config::default()
    }
}

/// Loss of every step of the sparse run, and how many blocks the pruned layers keep in the end.
fn run(device: &Device) -> (Vec<f32>, Vec<usize>) {
    let config = tiny();
    config.validate().expect("the setting is valid");
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let text = folder.path().join("text.txt");
    fs::write(&text, "the quick brown fox jumps over the lazy dog. ".repeat(200)).unwrap();
    let text = Text::load(Some(&text), config.context).expect("the text is long enough");
    let store = Store::new(folder.path());
    let experiment = Experiment::new(&config, &text.corpus, &store, device);
    let run = experiment.folder(Phase::Sparse).unwrap();
    let mut trainee = experiment.trainee(Phase::Sparse, &run).unwrap();
    let session = experiment.session(Phase::Sparse);
    let mut losses = Vec::with_capacity(STEPS);
    for step in 0..STEPS {
        let loss: Tensor<1>;
        (trainee, loss) = trainee.step(step, &session);
        losses.push(loss.into_scalar::<f32>());
    }
    let mlps = trainee.model.mlps_mut(config.dense_last);
    let layers = mlps.iter().filter_map(|(_, linear)| linear.as_sparse());
    (losses, layers.map(|layer| layer.pattern().nnz()).collect())
}

/// Whether wgpu finds an adapter; `BURN_BLAST_REQUIRE_GPU=1` makes a missing one a failure.
fn has_adapter() -> bool {
    let works = || {
        let ones = Tensor::<1>::ones([2], &Device::wgpu(DeviceKind::default()));
        ones.sum().into_scalar::<f32>() == 2.0
    };
    let found = std::panic::catch_unwind(works).unwrap_or(false);
    let required = std::env::var("BURN_BLAST_REQUIRE_GPU").is_ok_and(|value| value == "1");
    assert!(found || !required, "BURN_BLAST_REQUIRE_GPU is set, but there is no WebGPU adapter");
    found
}

#[test]
fn the_sparse_run_on_a_gpu_follows_the_one_on_the_cpu() {
    if !has_adapter() {
        println!("SKIPPED wgpu: this machine has no WebGPU adapter");
        return;
    }
    let (cpu, kept) = run(&Device::flex());
    assert!(cpu[STEPS - 1] < 0.9 * cpu[0], "{cpu:?}");
    let (gpu, kept_there) = run(&Device::wgpu(DeviceKind::default()));
    assert_eq!(kept, kept_there);
    for (step, (gpu, cpu)) in gpu.iter().zip(&cpu).enumerate() {
        let off = (gpu - cpu).abs() / cpu;
        assert!(off < 1e-3, "step {}: {gpu} against {cpu}", step + 1);
    }
}
