//! All results as numbers.

use super::Run;
use super::facts::{bandwidth, equivalent_rate, kept_rate, peak, positive};
use super::html::{self, Section};
use super::shared::Shared;
use super::words;
use crate::record::{Limit, Measured, Spread};

const COLUMNS: [&str; 13] = [
    "problem",
    "rounds",
    "sparse (quartiles)",
    "dense (quartiles)",
    "Auto (quartiles)",
    "path",
    "speed-up (quartiles)",
    "GFLOP/s on kept",
    "GFLOP/s dense-equivalent",
    "GB/s of weight",
    "of dense f32 peak",
    "of read peak",
    "error over bound",
];

/// The section: a table per machine, closed.
pub fn section(shared: &Shared) -> Section {
    let filled = shared.named().filter(|(_, run)| !run.results.is_empty());
    let body = filled
        .map(|(name, run)| {
            let table = html::table(
                &COLUMNS,
                1..COLUMNS.len(),
                run.results.iter().map(|result| row(run, result)),
            );
            html::details(
                &format!("{name}: {}", words::count(run.results.len(), "result")),
                false,
                &table,
            )
        })
        .collect();
    let lead = "Medians of a call with quartiles over rounds. Kept counts the work on kept blocks, dense-equivalent \
                that of the whole weight. Peaks are those measured in the same run. The error is the largest over its \
                bound against the f64 oracle before timing; 1 would be a failure.";
    Section { id: "results", title: "All results", lead: lead.into(), body }
}

fn row(run: &Run, result: &Measured) -> Vec<String> {
    let time = |spread: &Spread| match positive(spread.median) {
        Some(_) => words::seconds_spread(spread),
        None => words::NOTHING.into(),
    };
    let giga =
        |rate: Option<f64>| rate.map_or(words::NOTHING.into(), |rate| words::figures(rate / 1e9));
    let share = |rate: Option<f64>, limit| {
        rate.zip(peak(run, limit))
            .map_or(words::NOTHING.into(), |(rate, peak)| words::percent(rate / peak))
    };
    let (kept, bytes) = (kept_rate(result), bandwidth(result));
    vec![
        words::id(&result.problem),
        result.rounds.to_string(),
        time(&result.sparse),
        time(&result.dense),
        result.auto.as_ref().map_or(words::NOTHING.into(), time),
        result.auto_path.clone().unwrap_or_else(|| words::NOTHING.into()),
        words::ratio_spread(&result.speedup),
        giga(kept),
        giga(equivalent_rate(result)),
        giga(bytes),
        share(kept, Limit::DenseF32),
        share(bytes, Limit::Read),
        words::figures(result.error),
    ]
}
