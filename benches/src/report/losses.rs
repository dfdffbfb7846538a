//! Where we lose: `Auto` slower than dense, sparse slower than dense, results that say nothing.

use super::facts::{AUTO_SLACK, auto_over_dense, speedup};
use super::html::{self, Section};
use super::shared::Shared;
use super::words;
use crate::record::Measured;

/// A result and the short name of its run.
type Named<'a> = (String, &'a Measured);

/// The section: three lists, each with its number, and a sentence where a list is empty.
pub fn section(shared: &Shared) -> Section {
    let all: Vec<Named> = (0..shared.runs.len())
        .flat_map(|index| {
            shared.runs[index].results.iter().map(move |result| (shared.tag(index), result))
        })
        .collect();
    let body =
        if all.is_empty() { String::new() } else { auto(&all) + &sparse(&all) + &unusable(&all) };
    let lead = "Every problem on which a user would have been better off with dense, worst first.";
    Section { id: "losses", title: "Where we lose", lead: lead.into(), body }
}

/// Those that `lose` gives a number, largest first.
fn worst<'a>(all: &'a [Named<'a>], lose: impl Fn(&Measured) -> Option<f64>) -> Vec<&'a Named<'a>> {
    let mut found: Vec<_> = all.iter().filter_map(|named| Some((lose(named.1)?, named))).collect();
    found.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    found.into_iter().map(|(_, named)| named).collect()
}

fn list(title: &str, none: &str, losers: &[&Named], table: impl FnOnce() -> String) -> String {
    let heading = html::heading(3, title);
    if losers.is_empty() { format!("{heading}<p>{none}</p>\n") } else { heading + &table() }
}

fn auto(all: &[Named]) -> String {
    let chosen = all.iter().filter(|(_, result)| auto_over_dense(result).is_some()).count();
    let lose = |result: &Measured| auto_over_dense(result).filter(|ratio| *ratio > AUTO_SLACK);
    let losers = worst(all, lose);
    let slack = words::percent(AUTO_SLACK - 1.0);
    let title =
        format!("Auto is more than {slack} slower than dense: {} of {chosen}", losers.len());
    let none = if chosen == 0 {
        "No problem was run with Auto.".into()
    } else {
        format!("None: Auto is never more than {slack} slower than dense.")
    };
    list(&title, &none, &losers, || {
        let columns = ["problem", "Auto over dense", "Auto", "dense", "sparse", "path", "machine"];
        html::table(&columns, 1..5, losers.iter().map(|(name, result)| auto_row(name, result)))
    })
}

fn auto_row(name: &str, result: &Measured) -> Vec<String> {
    let path = result.auto_path.clone().unwrap_or_else(|| words::NOTHING.into());
    let ratio = auto_over_dense(result).map_or(words::NOTHING.into(), words::ratio);
    let auto = result.auto.map_or(f64::NAN, |auto| auto.median);
    let times = [auto, result.dense.median, result.sparse.median].map(words::seconds);
    let [auto, dense, sparse] = times;
    vec![words::id(&result.problem), ratio, auto, dense, sparse, path, name.into()]
}

fn sparse(all: &[Named]) -> String {
    let compared = all.iter().filter(|(_, result)| speedup(result).is_some()).count();
    let losers =
        worst(all, |result| speedup(result).filter(|ratio| *ratio < 1.0).map(|ratio| 1.0 / ratio));
    let title = format!("The sparse path is slower than dense: {} of {compared}", losers.len());
    let none = if compared == 0 {
        "No problem could be compared."
    } else {
        "None: the sparse path is at least as fast as dense on every problem."
    };
    list(&title, none, &losers, || {
        let columns = ["problem", "speed-up (quartiles)", "sparse", "dense", "Auto", "machine"];
        html::table(&columns, 1..5, losers.iter().map(|(name, result)| sparse_row(name, result)))
    })
}

fn sparse_row(name: &str, result: &Measured) -> Vec<String> {
    let auto = result.auto.map_or(words::NOTHING.into(), |auto| {
        format!(
            "{}, {}",
            words::seconds(auto.median),
            result.auto_path.as_deref().unwrap_or("path unknown")
        )
    });
    let times = [result.sparse.median, result.dense.median].map(words::seconds);
    let [sparse, dense] = times;
    vec![
        words::id(&result.problem),
        words::ratio_spread(&result.speedup),
        sparse,
        dense,
        auto,
        name.into(),
    ]
}

/// Results without a ratio, or with an error at its bound or above.
fn unusable(all: &[Named]) -> String {
    let wrong = |result: &Measured| result.error.is_nan() || result.error >= 1.0;
    let lose = |result: &Measured| (speedup(result).is_none() || wrong(result)).then_some(0.0);
    let losers = worst(all, lose);
    if losers.is_empty() {
        return String::new();
    }
    let title = format!("Results that do not count: {} of {}", losers.len(), all.len());
    let rows = losers.iter().map(|(name, result)| {
        let reason =
            if wrong(result) { "error at its bound or above" } else { "no time or no ratio" };
        vec![words::id(&result.problem), reason.into(), words::figures(result.error), name.clone()]
    });
    html::heading(3, &title)
        + &html::table(&["problem", "reason", "error over bound", "machine"], 2..3, rows)
}
