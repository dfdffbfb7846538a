//! Times calls in interleaved rounds.

use std::time::Instant;

use anyhow::{Context, Result};
use burn::tensor::{Device, ProfileOptions, Tensor, TimingMethod, read_sync};

use crate::record::Clock;
use crate::setup::{Call, boxed};

/// Calls of each side before the first measured one: kernels are compiled, tuned and fused, memory pools are filled.
const WARM_UP: usize = 3;

/// Smallest number of rounds; quartiles of fewer mean nothing.
const MIN_ROUNDS: usize = 5;

/// Largest number of rounds.
const MAX_ROUNDS: usize = 101;

/// Shortest duration of a sample in seconds; shorter calls are repeated inside it. A hundred times the cost of reading
/// the clock and waiting for a GPU.
const MIN_SAMPLE: f64 = 1e-3;

/// Largest number of calls in a sample.
const MAX_REPEATS: f64 = 64.0;

/// Calls shorter than this many seconds run once more, untimed, just before they are sampled. Otherwise the content of
/// the caches depends on the call before; longer calls read more than the caches hold.
const PRIME_BELOW: f64 = 0.02;

/// Measures calls on a device.
pub struct Timer {
    device: Device,
    clock: Clock,
}

impl Timer {
    /// A timer with the requested clock; by default with the device's own clock, if it has one.
    ///
    /// # Errors
    /// If the device's clock is requested and it has none.
    pub fn new(device: Device, requested: Option<Clock>) -> Result<Self> {
        let timer = Self { device, clock: Clock::Device };
        let clock = match requested {
            Some(Clock::Wall) => Clock::Wall,
            Some(Clock::Device) => timer.try_device().map(|()| Clock::Device)?,
            None => timer.try_device().map_or(Clock::Wall, |()| Clock::Device),
        };
        Ok(Self { clock, ..timer })
    }

    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Seconds of one call, as the mean of `repeats` calls.
    ///
    /// # Errors
    /// If the device fails.
    pub fn seconds(&self, call: &mut Call, repeats: usize) -> Result<f64> {
        self.device.sync()?;
        let all = match self.clock {
            Clock::Wall => {
                let start = Instant::now();
                let last = repeat(call, repeats);
                self.device.sync()?;
                let seconds = start.elapsed().as_secs_f64();
                drop(last);
                seconds
            }
            Clock::Device => self.profile(call, repeats)?.1,
        };
        Ok(all / repeats as f64)
    }

    fn profile(&self, call: &mut Call, repeats: usize) -> Result<(TimingMethod, f64)> {
        let options = ProfileOptions::default().flush();
        let (last, window) = self.device.profile_with(options, || repeat(call, repeats))?;
        self.device.sync()?;
        drop(last);
        let method = window.timing_method();
        let ticks = read_sync(window.into_future()).context("the device measured no time")?;
        Ok((method, ticks.duration().as_secs_f64()))
    }

    fn try_device(&self) -> Result<()> {
        let array = Tensor::<1>::ones([1 << 20], &self.device);
        let mut call: Call = Box::new(move || boxed(array.clone() + 1.0));
        let (method, _) = self.profile(&mut call, 1)?;
        anyhow::ensure!(
            method == TimingMethod::Device,
            "this device has no clock of its own; leave out --clock device"
        );
        Ok(())
    }
}

/// Calls `repeats` times. Each result is dropped before the next call, so that a device can reuse its memory.
fn repeat(call: &mut Call, repeats: usize) -> crate::setup::AnyOutput {
    let mut last = call();
    for _ in 1..repeats {
        drop(last);
        last = call();
    }
    last
}

/// Times all calls in interleaved rounds, so that a change of the machine's speed affects all of them. Each round starts
/// with another call, and every second round runs in reverse order. `before` runs before every call and is not timed. There
/// are as many rounds as fit into `budget` seconds, or exactly `rounds`.
///
/// Returns the seconds of each call, one per round.
///
/// # Errors
/// If the device fails.
pub fn interleave(
    timer: &Timer,
    calls: &mut [Call],
    before: Option<&dyn Fn() -> Result<()>>,
    budget: f64,
    rounds: Option<usize>,
) -> Result<Vec<Vec<f64>>> {
    let (mut repeats, mut primed) = (vec![1; calls.len()], vec![false; calls.len()]);
    for _ in 0..WARM_UP {
        for (at, call) in calls.iter_mut().enumerate() {
            let seconds = timer.seconds(call, 1)?;
            // A second call would find its weight in the cache.
            if before.is_none() {
                repeats[at] = (MIN_SAMPLE / seconds).ceil().clamp(1.0, MAX_REPEATS) as usize;
                primed[at] = seconds < PRIME_BELOW;
            }
        }
    }
    let start = Instant::now();
    let mut seconds = vec![Vec::new(); calls.len()];
    for round in 0.. {
        let spent = start.elapsed().as_secs_f64();
        let enough = match rounds {
            Some(rounds) => round >= rounds,
            None => round >= MAX_ROUNDS || (round >= MIN_ROUNDS && spent >= budget),
        };
        if enough {
            break;
        }
        for turn in 0..calls.len() {
            let forwards = (round / 2 + turn) % calls.len();
            let at = if round % 2 == 0 { forwards } else { calls.len() - 1 - forwards };
            before.map_or(Ok(()), |before| before())?;
            if primed[at] {
                drop(calls[at]());
            }
            seconds[at].push(timer.seconds(&mut calls[at], repeats[at])?);
        }
    }
    Ok(seconds)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn every_call_runs_in_every_round_and_caches_are_emptied_before_each() {
        use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        static FLUSHES: AtomicUsize = AtomicUsize::new(0);
        let call = || -> Call { Box::new(|| boxed(CALLS.fetch_add(1, SeqCst))) };
        let flush = || {
            FLUSHES.fetch_add(1, SeqCst);
            Ok(())
        };
        let timer = Timer::new(Device::flex(), Some(Clock::Wall)).unwrap();
        let mut calls = [call(), call(), call()];
        let seconds = interleave(&timer, &mut calls, Some(&flush), 0.0, Some(4)).unwrap();
        assert_eq!(seconds.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 4]);
        assert_eq!((CALLS.load(SeqCst), FLUSHES.load(SeqCst)), ((4 + WARM_UP) * 3, 12));
    }
}
