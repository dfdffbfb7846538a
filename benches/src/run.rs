//! A run: every problem is prepared, checked, timed and recorded.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use burn_blast::tuning::ProductPath;

use crate::catalogue::{Catalogue, problems};
use crate::cli::RunArgs;
use crate::record::{Limit, Line, Machine, Measured, Peak, Problem, Quartiles};
use crate::setup::{Case, bytes, case, dense_flops};
use crate::timing::{Timer, interleave};
use crate::{cold, file, format, machine, peak, table};

/// Seconds of rounds per problem.
const FULL_BUDGET: f64 = 2.0;
const QUICK_BUDGET: f64 = 0.8;

/// Seconds after which a quick run starts no further problem: three minutes minus the time of the last one.
const QUICK_LIMIT: f64 = 160.0;

/// Fraction of a problem's time that is spent in rounds; the rest prepares it.
const ROUNDS_SHARE: f64 = 0.7;

/// Runs the selected problems.
///
/// # Errors
/// If no problem is selected, a result is wrong, the device fails or the file cannot be written.
pub fn run(args: &RunArgs) -> Result<()> {
    let start = Instant::now();
    let problems = problems(args.select.catalogue(), &args.select.filter)?;
    let backend = args.select.backend;
    let device = backend.open()?;
    let mut output = args.out.as_ref().map(|path| file::create(path, args.force)).transpose()?;
    let timer = Timer::new(device.clone(), args.clock)?;
    let machine = machine::describe(backend, &device, timer.clock());
    let before = peak::measure(&timer, backend.is_host(), &device)?;
    let memory =
        args.memory.map_or_else(|| machine::memory(backend), |gib| gib * f64::from(1 << 30));
    let bench = Bench::new(args, device, timer, &before, memory, start);
    let mut timed = false;
    let done = bench.run(&problems, &machine, &before, &mut |line| {
        timed |= matches!(line, Line::Result(_));
        output.as_mut().map_or(Ok(()), |output| file::append(output, line))
    });
    match (done, output) {
        (Ok(()), Some(output)) => output.finish().context("cannot write the record"),
        (Err(error), Some(output)) if timed => Err(file::keep(output, error)),
        (done, _) => done,
    }
}

/// The last line: a report counts the problems that were timed.
fn summary(timed: usize, all: usize, time: Duration) -> String {
    format!("{timed} of {all} problems timed, in {:.0} s", time.as_secs_f64())
}

/// Results of a run.
#[derive(Default)]
pub struct Outcome {
    /// Timed problems.
    pub results: Vec<Measured>,
    /// Number of skipped problems by reason.
    pub skipped: BTreeMap<String, usize>,
}

/// A device and the limits of a run on it.
pub struct Bench {
    device: Device,
    host: bool,
    timer: Timer,
    flush: OnceCell<Box<dyn Fn() -> Result<()>>>,
    start: Instant,
    limit: Option<f64>,
    budget: f64,
    rounds: Option<usize>,
    memory: f64,
    /// Largest number of multiplications and additions in a dense call.
    max_flops: f64,
}

impl Bench {
    /// A bench with the limits of `args`.
    pub fn new(
        args: &RunArgs,
        device: Device,
        timer: Timer,
        peaks: &[Peak],
        memory: f64,
        start: Instant,
    ) -> Self {
        let quick = args.select.catalogue() == Catalogue::Quick;
        let dense = peaks.iter().find(|peak| peak.limit == Limit::DenseF32);
        Self {
            device,
            host: args.select.backend.is_host(),
            timer,
            flush: OnceCell::new(),
            start,
            limit: args.time_limit.or(quick.then_some(QUICK_LIMIT)),
            budget: if quick { QUICK_BUDGET } else { FULL_BUDGET },
            rounds: args.rounds.map(|rounds| rounds as usize),
            memory,
            max_flops: dense.map_or(f64::INFINITY, |peak| peak.rate * args.max_call),
        }
    }

    /// Times all problems, prints the results, and passes each line of the record to `write` as soon as it is known, so that
    /// later errors lose nothing. `before` holds the limits of the device, measured before the problems.
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
        // Measured again at the end: the machine may have been busy at the start.
        let peaks = peak::highest(before, &peak::measure(&self.timer, self.host, &self.device)?);
        print!("{}", table::header(machine, &peaks));
        println!("{}", table::table(&results, &peaks));
        for (reason, count) in &skipped {
            println!("{count} skipped: {reason}");
        }
        println!("{}", summary(results.len(), problems.len(), self.start.elapsed()));
        ensure!(!results.is_empty(), "no problem could be timed");
        peaks.into_iter().try_for_each(|peak| write(&Line::Peak(peak)))
    }

    /// Times all problems and passes each result to `timed`.
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
            let name = format::id(problem);
            let left = problems.len() - at;
            let one = match self.skip_reason(problem) {
                Some(reason) => Ok(Err(reason)),
                None => guarded(|| self.one(problem, left)),
            };
            match one.with_context(|| format!("in the problem {name}"))? {
                Ok(result) => {
                    timed(&result)?;
                    let speedup = format::ratio_quartiles(&result.speedup);
                    eprintln!("[{}/{}] {name}: {speedup}", at + 1, problems.len());
                    outcome.results.push(result);
                }
                Err(reason) => {
                    eprintln!("[{}/{}] {name}: skipped, {reason}", at + 1, problems.len());
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
        let flush = || self.flush.get_or_init(|| cold::flush(self.host, &self.device))();
        let before = problem.cold.then_some(&flush as &dyn Fn() -> Result<()>);
        let seconds = interleave(&self.timer, &mut calls, before, self.budget(left), self.rounds)?;
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
            sparse: Quartiles::of(sparse),
            dense: Quartiles::of(dense),
            auto: seconds.get(2).map(|auto| Quartiles::of(auto)),
            auto_path: path,
            speedup: Quartiles::of(&speedup),
            kept_flops: work.sparse_flops,
            dense_flops: work.dense_flops,
            weight_bytes: work.sparse_bytes,
            error,
        })
    }

    fn skip_reason(&self, problem: &Problem) -> Option<String> {
        if self.limit.is_some_and(|limit| self.start.elapsed().as_secs_f64() > limit) {
            return Some("the time limit was reached".to_owned());
        }
        if !self.device.supports_dtype(problem.dtype.dtype()) {
            return Some(format!("the device does not compute in {}", problem.dtype));
        }
        if bytes(problem) > self.memory {
            let gib = self.memory / f64::from(1 << 30);
            return Some(format!("it needs more than {gib:.1} GiB (raise --memory)"));
        }
        if dense_flops(problem) > self.max_flops {
            return Some("a dense call would take too long here (raise --max-call)".to_owned());
        }
        None
    }

    /// Seconds of rounds for a problem when `left` problems, including this one, share the remaining time.
    fn budget(&self, left: usize) -> f64 {
        let seconds = self.limit.map_or(f64::INFINITY, |limit| {
            (limit - self.start.elapsed().as_secs_f64()).max(0.0) / left as f64 * ROUNDS_SHARE
        });
        self.budget.min(seconds)
    }
}

/// Runs `work` and turns a panic into a reason. Burn panics when a device cannot allocate a tensor, on a GPU at its first
/// use; the next problem may be smaller.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<Result<T, String>> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map(Ok),
        Err(_) => Ok(Err("the device could not allocate it (the message is above)".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_reason_and_an_error_stays_an_error() {
        assert_eq!(guarded(|| Ok(7)).unwrap(), Ok(7));
        let reason = guarded::<()>(|| panic!("out of memory")).unwrap().unwrap_err();
        assert!(reason.contains("could not allocate it"), "{reason}");
        let error = guarded::<()>(|| anyhow::bail!("a wrong result")).unwrap_err();
        assert_eq!(error.to_string(), "a wrong result");
    }

    #[test]
    fn the_last_line_counts_what_was_timed_as_the_report_does() {
        let line = summary(41, 42, Duration::from_secs(160));
        assert_eq!(line, "41 of 42 problems timed, in 160 s");
    }
}
