//! A training loop of your own: a learning-rate schedule, a view of the pruning, a checkpoint, and a resumed run that
//! ends with the same bits.
//!
//! ```sh
//! cargo run --release -p burn-blast-examples --example own_loop
//! ```

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Distribution, Tensor};
use burn_blast::io;
use burn_blast::prelude::*;

const STEPS: usize = 60;
const D_MODEL: usize = 64;

/// Pruning over the whole run. It is not in the files: a resumed run needs the same one.
fn blast_config() -> BlastConfig {
    BlastConfig::new(STEPS)
        .with_sparsity(0.8)
        .with_interval(10)
        .with_end_fraction(0.75) // The pattern is final after three quarters of the steps.
        .with_schedule(Schedule::Cubic) // Many blocks go early, few late.
}

fn model(device: &Device) -> BlockSparseMlp {
    BlockSparseMlpConfig::new(D_MODEL, 128).with_block_size(16).init(device)
}

/// Inputs of a step. They follow from its number, so a resumed run sees what the unbroken one did.
fn batch(step: usize, device: &Device) -> Tensor<2> {
    device.seed(step as u64);
    Tensor::random([32, D_MODEL], Distribution::Default, device)
}

/// Trains steps `range`, from the checkpoint in `folder` unless they are the first, and leaves one there.
fn train(folder: &Path, range: Range<usize>) -> Result<BlockSparseMlp, Box<dyn Error>> {
    let device = Device::flex().autodiff();
    device.seed(7);
    let (model_file, optim_file) = (folder.join("model.bpk"), folder.join("optim.bpk"));
    let resumes = range.start > 0;

    // In this order: load the model, attach, load the optimizer.
    let fresh = model(&device);
    let start = if resumes { io::load(fresh, &model_file)? } else { fresh };
    let config = blast_config();
    let blast = Blast::new(AdamWConfig::new().build(), config.clone());
    let monitor = blast.monitor();
    let (mut model, mut optim) = blast.attach(start)?;
    if resumes {
        optim = io::load_optimizer(optim, &model, &optim_file)?;
    }

    // Burn's schedules count calls, so step once for each training step already taken.
    let mut schedule =
        CosineAnnealingLrSchedulerConfig::new(1e-2, STEPS).with_min_lr(1e-3).init()?;
    (0..range.start).for_each(|_| drop(schedule.step()));

    for step in range {
        let x = batch(step, &device);
        let loss = (model.forward(x.clone()) - x.flip([1])).square().mean();
        let grads = GradientsParams::from_grads(loss.clone().backward(), &model);
        model = optim.step(schedule.step(), model, grads);

        // The monitor knows what the pruning did, in this step and over the run. `is_update` counts steps from 1.
        // Churn counts the blocks that were dropped as well as the ones that came back, so it may be above 100 %.
        if config.is_update(step + 1) {
            let now = monitor.snapshot();
            println!(
                "step {}: loss {:.4}, {:.1} % of the blocks removed, {:.1} % exchanged, {} of {} bytes",
                now.step,
                loss.into_scalar::<f32>(),
                100.0 * now.sparsity,
                100.0 * now.churn,
                now.weight_bytes,
                now.dense_bytes
            );
        }
    }

    // Both files are of the same step.
    io::save(&model, &model_file)?;
    io::save_optimizer(&optim, &optim_file)?;
    Ok(model)
}

fn main() -> Result<(), Box<dyn Error>> {
    let (whole, parts) = (tempfile::tempdir()?, tempfile::tempdir()?);
    println!("unbroken:");
    let unbroken = train(whole.path(), 0..STEPS)?;
    println!("stopped after step 33 and resumed:");
    train(parts.path(), 0..33)?;
    let resumed = train(parts.path(), 33..STEPS)?;

    for (one, two) in [(&unbroken.up, &resumed.up), (&unbroken.down, &resumed.down)] {
        // 80 % of 32 blocks are 25.6: the count is rounded, and exact.
        assert_eq!(one.pattern().nnz(), 6);
        assert_eq!(one.pattern(), two.pattern());
        assert_eq!(one.weight.values().into_data(), two.weight.values().into_data());
    }
    println!("both runs end with the same blocks and the same bits");
    Ok(())
}

#[test]
fn runs() {
    main().unwrap();
}
