//! One training run on every device.

mod common;

use burn::optim::AdamWConfig;
use burn::tensor::Device;
use burn_blast::prune::Blast;
use common::engines;
use common::toy::{self, Net};

const STEPS: usize = 50;

/// Losses of a run that prunes three quarters of the blocks and grows some back.
fn losses(device: &Device) -> Vec<f32> {
    let device = device.clone().autodiff();
    let blast = Blast::new(AdamWConfig::new().build(), toy::config(STEPS));
    let (mut model, mut optim) = blast.attach(Net::new(&device)).unwrap();
    let mut losses = Vec::with_capacity(STEPS);
    for at in 1..=STEPS {
        let loss;
        (model, loss) = toy::step(model, &mut optim, at, 3e-3, &device);
        losses.push(loss);
    }
    losses
}

#[test]
fn losses_follow_those_of_the_cpu_within_rounding() {
    let cpu = losses(&Device::flex());
    assert!(cpu[STEPS - 1] < 0.8 * cpu[0], "{cpu:?}");
    for engine in engines() {
        let other = losses(&engine.device);
        for (at, (other, cpu)) in other.iter().zip(&cpu).enumerate() {
            let off = (other - cpu).abs() / cpu;
            assert!(off < 1e-3, "{}, step {}: {other} against {cpu}", engine.name, at + 1);
        }
    }
}
