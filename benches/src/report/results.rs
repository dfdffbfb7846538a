//! All results as tables.

use super::context::Context;
use super::html::{self, Section};
use crate::format;
use crate::metrics::{bandwidth, equivalent_rate, kept_rate, peak, positive};
use crate::record::{Limit, Measured, Quartiles, Run};

const COLUMNS: [&str; 13] = [
    "problem",
    "rounds",
    "sparse (quartiles)",
    "dense (quartiles)",
    "Auto (quartiles)",
    "path",
    "speed-up (quartiles)",
    "GFLOP/s on kept blocks",
    "GFLOP/s dense-equivalent",
    "GB/s of weight",
    "of dense f32 peak",
    "of read peak",
    "error over bound",
];

/// The section: a collapsed table per machine.
pub fn section(context: &Context) -> Section {
    let filled = context.named().filter(|(_, run)| !run.results.is_empty());
    let body = filled
        .map(|(name, run)| {
            let table = html::table(
                &COLUMNS,
                1..COLUMNS.len(),
                run.results.iter().map(|result| row(run, result)),
            );
            html::details(
                &format!("{name}: {}", format::count(run.results.len(), "result")),
                false,
                &table,
            )
        })
        .collect();
    let lead = "Medians of a call with quartiles over rounds. FLOPs are counted on the kept blocks or, dense-equivalent, \
                on the whole weight. Peaks are measured in the same run. The error is the largest one divided by its \
                bound, against the f64 oracle before timing; above 1 the run fails.";
    Section { id: "results", title: "All results", lead: lead.into(), body }
}

fn row(run: &Run, result: &Measured) -> Vec<String> {
    let time = |spread: &Quartiles| match positive(spread.median) {
        Some(_) => format::seconds_quartiles(spread),
        None => format::NOTHING.into(),
    };
    let giga =
        |rate: Option<f64>| rate.map_or(format::NOTHING.into(), |rate| format::figures(rate / 1e9));
    let share = |rate: Option<f64>, limit| {
        rate.zip(peak(run, limit))
            .map_or(format::NOTHING.into(), |(rate, peak)| format::percent(rate / peak))
    };
    let (kept, bytes) = (kept_rate(result), bandwidth(result));
    vec![
        format::id(&result.problem),
        result.rounds.to_string(),
        time(&result.sparse),
        time(&result.dense),
        result.auto.as_ref().map_or(format::NOTHING.into(), time),
        result.auto_path.clone().unwrap_or_else(|| format::NOTHING.into()),
        format::ratio_quartiles(&result.speedup),
        giga(kept),
        giga(equivalent_rate(result)),
        giga(bytes),
        share(kept, Limit::DenseF32),
        share(bytes, Limit::Read),
        format::figures(result.error),
    ]
}
