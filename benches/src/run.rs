//! A run: every problem made ready, checked, timed, written down.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use burn_blast::Path;

use crate::catalogue::{Plan, describe, problems};
use crate::cli::RunArgs;
use crate::cold::Walk;
use crate::element::Element;
use crate::file::Output;
use crate::record::{Limit, Line, Measured, Peak, Problem};
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
    let bench = Bench::new(args, device.clone(), watch, &before, memory, start);
    let Outcome { results, skipped } = bench.all(&problems)?;
    // Once more at the end: the machine may have been busy at the start.
    let peaks = peak::best(&before, &peak::measure(&bench.watch, backend.is_host(), &device)?);
    print!("{}", table::head(&machine, &peaks));
    println!("{}", table::table(&results, &peaks));
    for (reason, count) in &skipped {
        println!("{count} not timed: {reason}");
    }
    println!("{} problems in {:.0} s", results.len(), start.elapsed().as_secs_f64());
    ensure!(!results.is_empty(), "not one problem could be timed");
    let Some(mut output) = output else { return Ok(()) };
    output.line(&Line::Machine(machine))?;
    peaks.into_iter().try_for_each(|peak| output.line(&Line::Peak(peak)))?;
    results.into_iter().try_for_each(|result| output.line(&Line::Result(result)))?;
    output.finish()
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

    /// Times all problems.
    ///
    /// # Errors
    /// If a result is wrong or the device fails; the message names the problem.
    pub fn all(&self, problems: &[Problem]) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for (at, problem) in problems.iter().enumerate() {
            let name = describe(problem);
            let left = problems.len() - at;
            match self.one(problem, left).with_context(|| format!("in the problem {name}"))? {
                Ok(result) => {
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

    /// Times one problem, or says why not.
    fn one(&self, problem: &Problem, left: usize) -> Result<Result<Measured, String>> {
        if let Some(reason) = self.refuse(problem) {
            return Ok(Err(reason));
        }
        // Burn panics where a device cannot hold a tensor; the next problem may be smaller.
        let ready = catch_unwind(AssertUnwindSafe(|| case(problem, &self.device)));
        let Ok(case) = ready else {
            return Ok(Err("the device could not hold it (the message is above)".to_owned()));
        };
        let Case { sparse, dense, auto, work, check } = case?;
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
            Path::Sparse => "sparse".to_owned(),
            Path::Dense => "dense".to_owned(),
        });
        Ok(Ok(Measured {
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
        }))
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
