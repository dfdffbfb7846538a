//! A run: every problem made ready, checked, timed, written down.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use burn_blast::tuning::ProductPath;

use crate::catalogue::{Plan, describe, problems};
use crate::cli::RunArgs;
use crate::cold::Walk;
use crate::element::Element;
use crate::file::Output;
use crate::record::{Limit, Line, Machine, Measured, Peak, Problem};
use crate::setup::{Case, bytes, case};
use crate::time::{Effort, Stopwatch, interleave, quartiles};
use crate::{machine, peak, table};

/// Seconds of rounds for each problem.
const FULL_BUDGET: f64 = 2.0;
const QUICK_BUDGET: f64 = 0.8;

/// Seconds after which a quick run takes no further problem: three minutes less what the last one may take.
const QUICK_LIMIT: f64 = 160.0;

/// Share of a problem's time that goes into rounds; the rest makes it ready.
const ROUNDS_SHARE: f64 = 0.7;

/// Runs what was asked for.
///
/// # Errors
/// If nothing was asked for that exists, a result is wrong, the device fails or the file cannot be written.
pub fn run(args: &RunArgs) -> Result<()> {
    let start = Instant::now();
    let problems = problems(args.select.plan(), &args.select.filter())?;
    let backend = args.select.backend;
    let device = backend.open()?;
    let output = args.out.as_ref().map(|path| Output::new(path, args.force)).transpose()?;
    let watch = Stopwatch::new(device.clone(), args.clock.map(Into::into))?;
    let machine = machine::describe(backend, &device, watch.clock(), args.driver.clone());
    let before = peak::measure(&watch, backend.is_host(), &device)?;
    let memory =
        args.memory.map_or_else(|| machine::memory(backend), |gib| gib * f64::from(1 << 30));
    let bench = Bench::new(args, device, watch, &before, memory, start);
    let Some(mut output) = output else {
        return bench.run(&problems, &machine, &before, &mut |_| Ok(()));
    };
    let mut timed = false;
    let mut write = |line: &Line| {
        timed |= matches!(line, Line::Result(_));
        output.line(line)
    };
    match bench.run(&problems, &machine, &before, &mut write) {
        Ok(()) => output.finish(),
        Err(error) if timed => Err(output.keep(error)),
        Err(error) => Err(error),
    }
}

/// What became of the problems.
#[derive(Default)]
pub struct Outcome {
    /// Those timed.
    pub results: Vec<Measured>,
    /// How many were left out, by reason.
    pub skipped: BTreeMap<String, usize>,
}

/// A device and what is done with each problem on it.
pub struct Bench {
    device: Device,
    host: bool,
    watch: Stopwatch,
    walk: OnceCell<Walk>,
    start: Instant,
    limit: Option<f64>,
    budget: f64,
    rounds: Option<usize>,
    memory: f64,
    /// Multiplications and additions a dense call may have.
    flops: f64,
}

impl Bench {
    /// A bench with the limits asked for.
    pub fn new(
        args: &RunArgs,
        device: Device,
        watch: Stopwatch,
        peaks: &[Peak],
        memory: f64,
        start: Instant,
    ) -> Self {
        let quick = args.select.plan() == Plan::Quick;
        let dense = peaks.iter().find(|peak| peak.limit == Limit::DenseF32);
        Self {
            device,
            host: args.select.backend.is_host(),
            watch,
            walk: OnceCell::new(),
            start,
            limit: args.time_limit.or(quick.then_some(QUICK_LIMIT)),
            budget: if quick { QUICK_BUDGET } else { FULL_BUDGET },
            rounds: args.rounds.map(|rounds| rounds as usize),
            memory,
            flops: dense.map_or(f64::INFINITY, |peak| peak.rate * args.max_call),
        }
    }

    /// Times all problems, prints what came of them, and gives `write` the lines of the file, each as soon as it is known:
    /// nothing is lost by what happens later. `before` are the limits of the device, measured before the problems.
    fn run(
        &self,
        problems: &[Problem],
        machine: &Machine,
        before: &[Peak],
        write: &mut dyn FnMut(&Line) -> Result<()>,
    ) -> Result<()> {
        write(&Line::Machine(machine.clone()))?;
        let outcome = self.all(problems, &mut |result| write(&Line::Result(result.clone())))?;
        let Outcome { results, skipped } = outcome;
        // Once more at the end: the machine may have been busy at the start.
        let peaks = peak::best(before, &peak::measure(&self.watch, self.host, &self.device)?);
        print!("{}", table::head(machine, &peaks));
        println!("{}", table::table(&results, &peaks));
        for (reason, count) in &skipped {
            println!("{count} not timed: {reason}");
        }
        println!("{} problems in {:.0} s", results.len(), self.start.elapsed().as_secs_f64());
        ensure!(!results.is_empty(), "not one problem could be timed");
        peaks.into_iter().try_for_each(|peak| write(&Line::Peak(peak)))
    }

    /// Times all problems; `timed` hears of each result.
    ///
    /// # Errors
    /// If a result is wrong, the device fails or `timed` does; the message names the problem.
    pub fn all(
        &self,
        problems: &[Problem],
        timed: &mut dyn FnMut(&Measured) -> Result<()>,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for (at, problem) in problems.iter().enumerate() {
            let name = describe(problem);
            let left = problems.len() - at;
            let one = match self.refuse(problem) {
                Some(reason) => Ok(Err(reason)),
                None => guarded(|| self.one(problem, left)),
            };
            match one.with_context(|| format!("in the problem {name}"))? {
                Ok(result) => {
                    timed(&result)?;
                    let speedup = table::speedup(&result.speedup);
                    eprintln!("[{}/{}] {name}: {speedup}", at + 1, problems.len());
                    outcome.results.push(result);
                }
                Err(reason) => {
                    eprintln!("[{}/{}] {name}: not timed, {reason}", at + 1, problems.len());
                    *outcome.skipped.entry(reason).or_default() += 1;
                }
            }
        }
        Ok(outcome)
    }

    /// Checks and times one problem.
    fn one(&self, problem: &Problem, left: usize) -> Result<Measured> {
        let Case { sparse, dense, auto, work, check } = case(problem, &self.device)?;
        let error = check()?;
        let (auto, path) = auto.unzip();
        let mut calls: Vec<_> = [sparse, dense].into_iter().chain(auto).collect();
        let flush = || self.walk.get_or_init(|| Walk::new(self.host, &self.device)).run();
        let before = problem.cold.then_some(&flush as &dyn Fn() -> Result<()>);
        let seconds = interleave(&self.watch, &mut calls, before, self.effort(left))?;
        let (sparse, dense) = (&seconds[0], &seconds[1]);
        let speedup: Vec<f64> =
            sparse.iter().zip(dense).map(|(sparse, dense)| dense / sparse).collect();
        let path = path.map(|path| match path {
            ProductPath::Sparse => "sparse".to_owned(),
            ProductPath::Dense => "dense".to_owned(),
        });
        Ok(Measured {
            problem: problem.clone(),
            rounds: sparse.len(),
            sparse: quartiles(sparse),
            dense: quartiles(dense),
            auto: seconds.get(2).map(|auto| quartiles(auto)),
            auto_path: path,
            speedup: quartiles(&speedup),
            kept_flops: work.kept_flops,
            dense_flops: work.dense_flops,
            weight_bytes: work.weight_bytes,
            error,
        })
    }

    fn refuse(&self, problem: &Problem) -> Option<String> {
        let element = Element::of(&problem.dtype)?;
        if self.limit.is_some_and(|limit| self.start.elapsed().as_secs_f64() > limit) {
            return Some("the time limit was reached".to_owned());
        }
        if !element.runs_on(&self.device) {
            return Some(format!("the device does not compute in {}", element.name()));
        }
        if bytes(problem) > self.memory {
            let gib = self.memory / f64::from(1 << 30);
            return Some(format!("it needs more than {gib:.1} GiB (--memory allows more)"));
        }
        if crate::setup::dense_flops(problem) > self.flops {
            return Some(
                "a dense call would take too long here (--max-call allows more)".to_owned(),
            );
        }
        None
    }

    /// What a problem may take when `left` of them, this one included, share the time that is left.
    fn effort(&self, left: usize) -> Effort {
        let share = self.limit.map_or(f64::INFINITY, |limit| {
            (limit - self.start.elapsed().as_secs_f64()).max(0.0) / left as f64 * ROUNDS_SHARE
        });
        Effort { budget: self.budget.min(share), rounds: self.rounds }
    }
}

/// What comes of `work`, or why it could not be done. Burn panics where a device cannot hold a tensor, on a GPU when it is
/// first used; the next problem may be smaller.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<Result<T, String>> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map(Ok),
        Err(_) => Ok(Err("the device could not hold it (the message is above)".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_reason_and_an_error_stays_one() {
        assert_eq!(guarded(|| Ok(7)).unwrap(), Ok(7));
        let reason = guarded::<()>(|| panic!("out of memory")).unwrap().unwrap_err();
        assert!(reason.contains("could not hold it"), "{reason}");
        let error = guarded::<()>(|| anyhow::bail!("a wrong result")).unwrap_err();
        assert_eq!(error.to_string(), "a wrong result");
    }
}
