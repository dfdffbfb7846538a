//! Growth by gradient finds structure that is there.

mod common;

use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{DType, Device};
use burn_blast::BlockMask;
use burn_blast::module::BlockSparseLinearConfig;
use burn_blast::prune::{Blast, BlastConfig, Growth, Schedule};
use common::{numbers, tensor};

/// Share of a sparse teacher's 64 blocks that a student finds.
fn found(growth: Growth) -> f64 {
    let device = Device::flex().autodiff();
    // Every other number here has a seed; without one the first weights differ from run to run.
    device.seed(3);
    let teacher = BlockSparseLinearConfig::new(128, 128)
        .with_block_size(8)
        .with_sparsity(0.75)
        .with_seed(5)
        .with_bias(false)
        .init(&device);
    let hidden = BlockMask::from(teacher.pattern());
    // The student starts sparse too, on other blocks: without growth it can only stay there.
    let student = BlockSparseLinearConfig::new(128, 128)
        .with_block_size(8)
        .with_sparsity(0.75)
        .with_seed(6)
        .with_bias(false)
        .init(&device);
    let config = BlastConfig::new(400)
        .with_sparsity(0.75)
        .with_schedule(Schedule::Constant)
        .with_interval(10)
        .with_growth(growth);
    let (mut student, mut optim) =
        Blast::new(AdamWConfig::new().build(), config).attach(student).unwrap();
    for at in 0..400 {
        let x = tensor::<2>(&numbers(64 * 128, 1000 + at), [64, 128], &device, DType::F32);
        let target = teacher.forward(x.clone()).detach();
        let loss = (student.forward(x) - target).square().mean();
        let grads = GradientsParams::from_grads(loss.backward(), &student);
        student = optim.step(1e-2, student, grads);
    }
    let kept = BlockMask::from(student.pattern());
    kept.intersection(&hidden).count() as f64 / hidden.count() as f64
}

#[test]
fn growth_finds_the_hidden_mask_of_a_teacher() {
    let (with, without) = (found(Growth::Gradient), found(Growth::None));
    println!("blocks of the teacher found: {with} with growth, {without} without");
    assert!(with >= 0.95, "{with}");
    assert!(with > without);
}
