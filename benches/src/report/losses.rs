//! Where sparse is slower: `Auto` slower than dense, sparse slower than dense, unusable results.

use super::context::Context;
use super::html::{self, Section};
use crate::format;
use crate::metrics::{AUTO_SLACK, auto_over_dense, speedup};
use crate::record::Measured;

/// A result and the short name of its run.
type Named<'a> = (String, &'a Measured);

/// The section: three lists with their lengths, and a sentence for an empty list.
pub fn section(context: &Context) -> Section {
    let all: Vec<Named> = (0..context.runs.len())
        .flat_map(|index| {
            context.runs[index].results.iter().map(move |result| (context.tag(index), result))
        })
        .collect();
    let body =
        if all.is_empty() { String::new() } else { auto(&all) + &sparse(&all) + &unusable(&all) };
    let lead = "All problems on which dense is faster, worst first.";
    Section { id: "losses", title: "Where dense is faster", lead: lead.into(), body }
}

/// Results for which `loss` returns a number, largest first.
fn worst<'a>(all: &'a [Named<'a>], loss: impl Fn(&Measured) -> Option<f64>) -> Vec<&'a Named<'a>> {
    let mut ranked: Vec<_> = all.iter().filter_map(|named| Some((loss(named.1)?, named))).collect();
    ranked.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    ranked.into_iter().map(|(_, named)| named).collect()
}

fn list(title: &str, none: &str, slower: &[&Named], table: impl FnOnce() -> String) -> String {
    let heading = html::heading(3, title);
    if slower.is_empty() { format!("{heading}<p>{none}</p>\n") } else { heading + &table() }
}

fn auto(all: &[Named]) -> String {
    let chosen = all.iter().filter(|(_, result)| auto_over_dense(result).is_some()).count();
    let loss = |result: &Measured| auto_over_dense(result).filter(|ratio| *ratio > AUTO_SLACK);
    let slower = worst(all, loss);
    let slack = format::percent(AUTO_SLACK - 1.0);
    let title =
        format!("Auto is more than {slack} slower than dense: {} of {chosen}", slower.len());
    let none = if chosen == 0 {
        "No problem was run with Auto.".into()
    } else {
        format!("None: Auto is never more than {slack} slower than dense.")
    };
    list(&title, &none, &slower, || {
        let columns = ["problem", "Auto over dense", "Auto", "dense", "sparse", "path", "machine"];
        html::table(&columns, 1..5, slower.iter().map(|(name, result)| auto_row(name, result)))
    })
}

fn auto_row(name: &str, result: &Measured) -> Vec<String> {
    let path = result.auto_path.clone().unwrap_or_else(|| format::NOTHING.into());
    let ratio = auto_over_dense(result).map_or(format::NOTHING.into(), format::ratio);
    let auto = result.auto.map_or(f64::NAN, |auto| auto.median);
    let times = [auto, result.dense.median, result.sparse.median].map(format::seconds);
    let [auto, dense, sparse] = times;
    vec![format::id(&result.problem), ratio, auto, dense, sparse, path, name.into()]
}

fn sparse(all: &[Named]) -> String {
    let compared = all.iter().filter(|(_, result)| speedup(result).is_some()).count();
    let slower =
        worst(all, |result| speedup(result).filter(|ratio| *ratio < 1.0).map(|ratio| 1.0 / ratio));
    let title = format!("The sparse path is slower than dense: {} of {compared}", slower.len());
    let none = if compared == 0 {
        "No problem could be compared."
    } else {
        "None: the sparse path is at least as fast as dense on every problem."
    };
    list(&title, none, &slower, || {
        let columns = ["problem", "speed-up (quartiles)", "sparse", "dense", "Auto", "machine"];
        html::table(&columns, 1..5, slower.iter().map(|(name, result)| sparse_row(name, result)))
    })
}

fn sparse_row(name: &str, result: &Measured) -> Vec<String> {
    let auto = result.auto.map_or(format::NOTHING.into(), |auto| {
        format!(
            "{}, {}",
            format::seconds(auto.median),
            result.auto_path.as_deref().unwrap_or("path unknown")
        )
    });
    let times = [result.sparse.median, result.dense.median].map(format::seconds);
    let [sparse, dense] = times;
    vec![
        format::id(&result.problem),
        format::ratio_quartiles(&result.speedup),
        sparse,
        dense,
        auto,
        name.into(),
    ]
}

/// Results without a ratio, or with an error at or above its bound.
fn unusable(all: &[Named]) -> String {
    let wrong = |result: &Measured| result.error.is_nan() || result.error >= 1.0;
    let loss = |result: &Measured| (speedup(result).is_none() || wrong(result)).then_some(0.0);
    let slower = worst(all, loss);
    if slower.is_empty() {
        return String::new();
    }
    let title = format!("Unusable results: {} of {}", slower.len(), all.len());
    let rows = slower.iter().map(|(name, result)| {
        let reason =
            if wrong(result) { "error at or above its bound" } else { "no time or no ratio" };
        vec![
            format::id(&result.problem),
            reason.into(),
            format::figures(result.error),
            name.clone(),
        ]
    });
    html::heading(3, &title)
        + &html::table(&["problem", "reason", "error over bound", "machine"], 2..3, rows)
}
