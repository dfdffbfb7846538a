//! Measured limits of the device.

use anyhow::Result;
use burn::tensor::{Device, Distribution, Tensor};

use crate::cold::sum;
use crate::record::{Limit, Peak};
use crate::setup::{Call, boxed};
use crate::timing::Timer;

/// Sides of the dense products, of which the fastest counts.
const HOST_SIDES: [usize; 3] = [512, 1024, 2048];
const DEVICE_SIDES: [usize; 3] = [2048, 4096, 8192];

/// Bytes read on a host: more than any cache holds.
const HOST_BYTES: usize = 512 << 20;

/// Elements per array and number of arrays read on a GPU: 1 GiB, in arrays that every adapter can bind.
const ARRAY: usize = 32 << 20;
const ARRAYS: usize = 8;

/// Calls of each measurement, of which the fastest counts: a limit is reached when nothing disturbs the device.
const CALLS: usize = 7;

/// Measures every limit.
///
/// # Errors
/// If the device fails.
pub fn measure(timer: &Timer, host: bool, device: &Device) -> Result<Vec<Peak>> {
    let sides = if host { HOST_SIDES } else { DEVICE_SIDES };
    let read = if host { read_host(timer)? } else { read_device(timer, device)? };
    Ok(vec![
        Peak { limit: Limit::DenseF32, rate: dense(timer, &sides, device)? },
        Peak { limit: Limit::Read, rate: read },
    ])
}

/// The higher value of each limit.
pub fn highest(before: &[Peak], after: &[Peak]) -> Vec<Peak> {
    let highest = |(a, b): (&Peak, &Peak)| Peak { rate: a.rate.max(b.rate), ..a.clone() };
    before.iter().zip(after).map(highest).collect()
}

/// FLOP/s of Burn's fastest square product.
fn dense(timer: &Timer, sides: &[usize], device: &Device) -> Result<f64> {
    let mut best = 0.0_f64;
    for &side in sides {
        let matrix = || Tensor::<2>::random([side, side], Distribution::Default, device);
        let (a, b) = (matrix(), matrix());
        let call: Call = Box::new(move || boxed(a.clone().matmul(b.clone())));
        best = best.max(2.0 * (side as f64).powi(3) / fastest(timer, call)?);
    }
    Ok(best)
}

fn read_host(timer: &Timer) -> Result<f64> {
    let array = vec![1_u64; HOST_BYTES / size_of::<u64>()];
    let call: Call = Box::new(move || boxed(sum(&array)));
    Ok(HOST_BYTES as f64 / fastest(timer, call)?)
}

/// The faster of a sum and an element-wise operation, which writes as much as it reads.
fn read_device(timer: &Timer, device: &Device) -> Result<f64> {
    let array = |_| Tensor::<1>::ones([ARRAY], device);
    let arrays: Vec<Tensor<1>> = (0..ARRAYS).map(array).collect();
    let (sums, copies) = (arrays.clone(), arrays);
    let sum: Call =
        Box::new(move || boxed(sums.iter().map(|x| x.clone().sum()).collect::<Vec<_>>()));
    let copy: Call =
        Box::new(move || boxed(copies.iter().map(|x| x.clone() * 2.0).collect::<Vec<_>>()));
    let bytes = (ARRAY * ARRAYS * size_of::<f32>()) as f64;
    let (sum, copy) = (bytes / fastest(timer, sum)?, 2.0 * bytes / fastest(timer, copy)?);
    Ok(sum.max(copy))
}

fn fastest(timer: &Timer, mut call: Call) -> Result<f64> {
    timer.seconds(&mut call, 1)?;
    let mut fastest = f64::INFINITY;
    for _ in 0..CALLS {
        fastest = fastest.min(timer.seconds(&mut call, 1)?);
    }
    Ok(fastest)
}
