//! Calls timed by turns.

use std::time::Instant;

use anyhow::{Context, Result};
use burn::tensor::{Device, ProfileOptions, Tensor, TimingMethod, read_sync};
use example_backend::Quartiles;

use crate::record::{Clock, Spread};
use crate::setup::{Call, hold};

/// Calls of each side before any is measured: kernels are compiled, tuned and fused, memory pools filled.
const WARM_UP: usize = 3;

/// Fewest rounds; quartiles of fewer say nothing.
const FEWEST: usize = 5;

/// Most rounds.
const MOST: usize = 101;

/// Seconds a sample lasts at least; shorter calls are repeated inside it. A hundred times what reading the
/// clock and waiting for a GPU cost.
const SAMPLE: f64 = 1e-3;

/// Most calls in a sample.
const REPEATS: f64 = 64.0;

/// Seconds below which a call is made once more, untimed, just before it is sampled. Otherwise what it finds in
/// the cache depends on whose turn was before it; longer calls walk through more than a cache themselves.
const PRIMED: f64 = 0.02;

/// How long a problem is timed.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Seconds to fill with rounds.
    pub budget: f64,
    /// This number of rounds instead.
    pub rounds: Option<usize>,
}

/// Reads seconds of calls on a device.
pub struct Stopwatch {
    device: Device,
    clock: Clock,
}

impl Stopwatch {
    /// A stopwatch by the clock asked for, else by the device's own if it has one.
    ///
    /// # Errors
    /// If the device's clock is asked for and it has none.
    pub fn new(device: Device, asked: Option<Clock>) -> Result<Self> {
        let watch = Self { device, clock: Clock::Device };
        let clock = match asked {
            Some(Clock::Wall) => Clock::Wall,
            Some(Clock::Device) => watch.try_device().map(|()| Clock::Device)?,
            None => watch.try_device().map_or(Clock::Wall, |()| Clock::Device),
        };
        Ok(Self { clock, ..watch })
    }

    /// What the seconds are read from.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Seconds of one call, by the mean of `repeats`.
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
        let mut call: Call = Box::new(move || hold(array.clone() + 1.0));
        let (method, _) = self.profile(&mut call, 1)?;
        anyhow::ensure!(
            method == TimingMethod::Device,
            "this device has no clock of its own: leave out --clock device"
        );
        Ok(())
    }
}

/// Calls `repeats` times. Results are dropped one by one, so that a device can use their memory again.
fn repeat(call: &mut Call, repeats: usize) -> crate::setup::Held {
    let mut last = call();
    for _ in 1..repeats {
        drop(last);
        last = call();
    }
    last
}

/// Times all calls by turns, so that a change of the machine's speed meets all of them; each round starts with
/// another, and every second one goes backwards. `before`, if there is one, runs before every call and is not
/// timed.
///
/// The answer has for each call its seconds, round by round.
///
/// # Errors
/// If the device fails.
pub fn interleave(
    watch: &Stopwatch,
    calls: &mut [Call],
    before: Option<&dyn Fn() -> Result<()>>,
    effort: Effort,
) -> Result<Vec<Vec<f64>>> {
    let (mut repeats, mut primed) = (vec![1; calls.len()], vec![false; calls.len()]);
    for _ in 0..WARM_UP {
        for (at, call) in calls.iter_mut().enumerate() {
            let seconds = watch.seconds(call, 1)?;
            // A call made twice would find its weight in the cache.
            if before.is_none() {
                repeats[at] = (SAMPLE / seconds).ceil().clamp(1.0, REPEATS) as usize;
                primed[at] = seconds < PRIMED;
            }
        }
    }
    let start = Instant::now();
    let mut seconds = vec![Vec::new(); calls.len()];
    for round in 0.. {
        let spent = start.elapsed().as_secs_f64();
        let enough = match effort.rounds {
            Some(rounds) => round >= rounds,
            None => round >= MOST || (round >= FEWEST && spent >= effort.budget),
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
            seconds[at].push(watch.seconds(&mut calls[at], repeats[at])?);
        }
    }
    Ok(seconds)
}

/// Quartiles of some values.
///
/// # Panics
/// If there are none.
pub fn quartiles(values: &[f64]) -> Spread {
    let Quartiles { lower, median, upper } = Quartiles::of(values.to_vec());
    Spread { low: lower, median, high: upper }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn every_call_runs_in_every_round_and_caches_are_emptied_before_each() {
        use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        static WALKS: AtomicUsize = AtomicUsize::new(0);
        let call = || -> Call { Box::new(|| hold(CALLS.fetch_add(1, SeqCst))) };
        let walk = || {
            WALKS.fetch_add(1, SeqCst);
            Ok(())
        };
        let watch = Stopwatch::new(Device::flex(), Some(Clock::Wall)).unwrap();
        let effort = Effort { budget: 0.0, rounds: Some(4) };
        let seconds =
            interleave(&watch, &mut [call(), call(), call()], Some(&walk), effort).unwrap();
        assert_eq!(seconds.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 4]);
        assert_eq!((CALLS.load(SeqCst), WALKS.load(SeqCst)), ((4 + WARM_UP) * 3, 12));
    }
}
