//! The header of the page: what was measured, where, and the outcome.

use super::context::Context;
use super::html;
use crate::format::{self, count};
use crate::metrics::{AUTO_SLACK, auto_over_dense, peak, speedup};
use crate::record::{Limit, Machine, Run};

/// Title, what was measured, outcome and machines.
pub fn header(context: &Context) -> String {
    let problems: usize = context.runs.iter().map(|run| run.results.len()).sum();
    if problems == 0 {
        let empty = "<p class=\"lead\">There are no results in these files. Measure some with <code>blast-bench \
                     run</code>.</p>\n";
        return title() + empty + &machines(context);
    }
    let lead = format!(
        "<p class=\"lead\">{} on {}. A problem is one layer at one number of rows, block and sparsity. The \
         block-sparse kernel and Burn's dense product ran it on the same device, in the same data type, in interleaved rounds. \
         Speed-up is dense time over sparse time of the same round. Points are medians over rounds, bands and \
         whiskers quartiles.</p>\n",
        count(problems, "problem"),
        count(context.runs.len(), "machine"),
    );
    title() + &lead + &outcome(context) + &machines(context)
}

fn title() -> String {
    "<h1>Block-sparse against dense in Burn</h1>\n".into()
}

/// One line per machine with what most readers want first.
fn outcome(context: &Context) -> String {
    let slack = format!("Auto over {} slower", format::percent(AUTO_SLACK - 1.0));
    let columns = [
        "machine",
        "problems",
        "sparse faster",
        "sparse slower",
        "least speed-up",
        "median",
        "largest",
        &slack,
    ];
    html::table(
        &columns,
        1..columns.len(),
        context.named().map(|(name, run)| outcome_row(name, run)),
    )
}

fn outcome_row(name: String, run: &Run) -> Vec<String> {
    let mut ratios: Vec<f64> = run.results.iter().filter_map(speedup).collect();
    ratios.sort_by(f64::total_cmp);
    let slower = ratios.iter().filter(|ratio| **ratio < 1.0).count();
    let at = |index: usize| {
        ratios.get(index).map_or(format::NOTHING.into(), |ratio| format::ratio(*ratio))
    };
    let (auto, losing) =
        run.results.iter().filter_map(auto_over_dense).fold((0, 0), |(all, losing), ratio| {
            (all + 1, losing + usize::from(ratio > AUTO_SLACK))
        });
    vec![
        name,
        run.results.len().to_string(),
        (ratios.len() - slower).to_string(),
        slower.to_string(),
        at(0),
        at(ratios.len() / 2),
        at(ratios.len().wrapping_sub(1)),
        if auto == 0 { format::NOTHING.into() } else { format!("{losing} of {auto}") },
    ]
}

/// A column per machine.
fn machines(context: &Context) -> String {
    type Field = (&'static str, fn(&Run) -> String);
    let fields: [Field; 11] = [
        ("device", |run| run.machine.device.clone()),
        ("backend", |run| run.machine.backend.clone()),
        ("driver", |run| run.machine.driver.clone()),
        ("SIMD", |run| run.machine.simd.join(", ")),
        ("threads", |run| run.machine.threads.to_string()),
        ("features", |run| run.machine.features.join(", ")),
        ("best dense f32", |run| rate(run, Limit::DenseF32, "FLOP/s")),
        ("reading memory", |run| rate(run, Limit::Read, "B/s")),
        ("commit", |run| run.machine.commit.clone()),
        ("date", |run| run.machine.date.clone()),
        ("command", |run| run.machine.command.clone()),
    ];
    let names: Vec<String> = (0..context.runs.len()).map(|index| short(context, index)).collect();
    let columns: Vec<&str> = [""].into_iter().chain(names.iter().map(String::as_str)).collect();
    let rows = fields.iter().map(|(name, field)| {
        let values = context
            .runs
            .iter()
            .map(field)
            .map(|v| if v.is_empty() { format::NOTHING.into() } else { v });
        [name.to_string()].into_iter().chain(values).collect()
    });
    if context.runs.is_empty() { String::new() } else { html::table(&columns, 0..0, rows) }
}

fn short(context: &Context, index: usize) -> String {
    let Machine { backend, .. } = &context.runs[index].machine;
    if context.runs.len() > 1 {
        format!("{}: {backend}", super::context::letter(index))
    } else {
        "machine".into()
    }
}

fn rate(run: &Run, limit: Limit, unit: &str) -> String {
    peak(run, limit).map_or("not measured".into(), |value| format::rate(value, unit))
}
