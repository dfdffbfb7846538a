//! The header of the page: what was measured, where, and the outcome.

use super::context::Context;
use super::html;
use crate::format::{self, count};
use crate::metrics::{AUTO_SLACK, auto_over_dense, speedup};
use crate::record::Run;
use crate::table::FACTS;

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
    if context.runs.is_empty() {
        return String::new();
    }
    let tags: Vec<String> = (0..context.runs.len()).map(|index| context.tag(index)).collect();
    let columns: Vec<&str> = [""].into_iter().chain(tags.iter().map(String::as_str)).collect();
    let rows = FACTS.iter().map(|(name, fact)| {
        let texts = context.runs.iter().map(|run| fact(&run.machine, &run.peaks));
        let known = texts.map(|text| if text.is_empty() { format::NOTHING.into() } else { text });
        [name.to_string()].into_iter().chain(known).collect()
    });
    html::table(&columns, 0..0, rows)
}
