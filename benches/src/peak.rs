//! Limits of the device, measured beside the problems.

use anyhow::Result;
use burn::tensor::{Device, Distribution, Tensor};

use crate::cold::sum;
use crate::record::{Limit, Peak};
use crate::setup::{Call, hold};
use crate::time::Stopwatch;

/// Sides of the dense products; the best counts.
const HOST_SIDES: [usize; 3] = [512, 1024, 2048];
const DEVICE_SIDES: [usize; 3] = [2048, 4096, 8192];

/// Bytes read on a host: beyond any cache.
const HOST_BYTES: usize = 512 << 20;

/// Elements read on a GPU, 1 GiB in pieces that every adapter can bind.
const PIECE: usize = 32 << 20;
const PIECES: usize = 8;

/// Calls of each, of which the fastest counts: a limit is what the device can do when nothing disturbs it.
const CALLS: usize = 7;

/// Measures every limit.
///
/// # Errors
/// If the device fails.
pub fn measure(watch: &Stopwatch, host: bool, device: &Device) -> Result<Vec<Peak>> {
    let sides = if host { HOST_SIDES } else { DEVICE_SIDES };
    let read = if host { read_host(watch)? } else { read_device(watch, device)? };
    Ok(vec![
        Peak { limit: Limit::DenseF32, rate: dense(watch, &sides, device)? },
        Peak { limit: Limit::Read, rate: read },
    ])
}

/// The higher of each two limits.
pub fn best(before: &[Peak], after: &[Peak]) -> Vec<Peak> {
    let best = |(a, b): (&Peak, &Peak)| Peak { rate: a.rate.max(b.rate), ..a.clone() };
    before.iter().zip(after).map(best).collect()
}

/// FLOP/s of the best of Burn's square products.
fn dense(watch: &Stopwatch, sides: &[usize], device: &Device) -> Result<f64> {
    let mut best = 0.0_f64;
    for &side in sides {
        let matrix = || Tensor::<2>::random([side, side], Distribution::Default, device);
        let (a, b) = (matrix(), matrix());
        let call: Call = Box::new(move || hold(a.clone().matmul(b.clone())));
        best = best.max(2.0 * (side as f64).powi(3) / fastest(watch, call)?);
    }
    Ok(best)
}

fn read_host(watch: &Stopwatch) -> Result<f64> {
    let array = vec![1_u64; HOST_BYTES / size_of::<u64>()];
    let call: Call = Box::new(move || hold(sum(&array)));
    Ok(HOST_BYTES as f64 / fastest(watch, call)?)
}

/// The better of a sum, and of an element-wise operation, which writes as much as it reads.
fn read_device(watch: &Stopwatch, device: &Device) -> Result<f64> {
    let array = |_| Tensor::<1>::ones([PIECE], device);
    let arrays: Vec<Tensor<1>> = (0..PIECES).map(array).collect();
    let (sums, copies) = (arrays.clone(), arrays);
    let sum: Call =
        Box::new(move || hold(sums.iter().map(|x| x.clone().sum()).collect::<Vec<_>>()));
    let copy: Call =
        Box::new(move || hold(copies.iter().map(|x| x.clone() * 2.0).collect::<Vec<_>>()));
    let bytes = (PIECE * PIECES * size_of::<f32>()) as f64;
    let (sum, copy) = (bytes / fastest(watch, sum)?, 2.0 * bytes / fastest(watch, copy)?);
    Ok(sum.max(copy))
}

fn fastest(watch: &Stopwatch, mut call: Call) -> Result<f64> {
    watch.seconds(&mut call, 1)?;
    let mut fastest = f64::INFINITY;
    for _ in 0..CALLS {
        fastest = fastest.min(watch.seconds(&mut call, 1)?);
    }
    Ok(fastest)
}
