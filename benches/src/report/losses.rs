//! Where sparse is slower: `Auto` slower than the faster path, sparse slower than dense, unusable results.

use super::context::Context;
use super::html::{self, Section};
use crate::format;
use crate::metrics::{AUTO_SLACK, auto_over_faster, speedup};
use crate::record::{Measured, Run};
use crate::table;

/// A result, its run, and the short name of the run.
type Named<'a> = (String, &'a Run, &'a Measured);

/// A problem on which dense is faster: how much is lost, and where.
type Loss<'a> = (f64, &'a Named<'a>);

/// The section: three lists with their lengths, and a sentence for an empty list.
pub fn section(context: &Context) -> Section {
    let all: Vec<Named> = (0..context.runs.len())
        .flat_map(|index| {
            let run = &context.runs[index];
            run.results.iter().map(move |result| (context.tag(index), run, result))
        })
        .collect();
    let body =
        if all.is_empty() { String::new() } else { auto(&all) + &sparse(&all) + &unusable(&all) };
    let lead = "All problems on which dense is faster than sparse, and those on which Auto lost time, worst first.";
    Section { id: "losses", title: "Where dense is faster", lead: lead.into(), body }
}

/// Results for which `loss` returns a number, largest first.
fn worst<'a>(all: &'a [Named<'a>], loss: impl Fn(&Measured) -> Option<f64>) -> Vec<Loss<'a>> {
    let mut ranked: Vec<_> = all.iter().filter_map(|named| Some((loss(named.2)?, named))).collect();
    ranked.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    ranked
}

/// A table of the results with a column that says what is lost; `none` if there are no results.
fn list(title: &str, none: &str, losses: &[Loss], why: &str, text: fn(&Loss) -> String) -> String {
    let heading = html::heading(3, title);
    if losses.is_empty() {
        return format!("{heading}<p>{none}</p>\n");
    }
    let columns = [&["machine", why][..], &table::COLUMNS.map(|(name, _)| name)].concat();
    let rows = losses.iter().map(|loss| {
        let (name, run, result) = loss.1;
        [vec![name.clone(), text(loss)], table::row(result, &run.peaks)].concat()
    });
    heading + &html::table(&columns, 3, rows)
}

fn auto(all: &[Named]) -> String {
    let chosen = all.iter().filter(|(.., result)| auto_over_faster(result).is_some()).count();
    let loss = |result: &Measured| auto_over_faster(result).filter(|ratio| *ratio > AUTO_SLACK);
    let slower = worst(all, loss);
    let slack = format::percent(AUTO_SLACK - 1.0);
    let title = format!(
        "Auto is more than {slack} slower than the faster path: {} of {chosen}",
        slower.len()
    );
    let none = if chosen == 0 {
        "No problem was run with Auto.".into()
    } else {
        format!("None: Auto is never more than {slack} slower than the faster path.")
    };
    list(&title, &none, &slower, "Auto over faster path", |(loss, _)| format::ratio(*loss))
}

fn sparse(all: &[Named]) -> String {
    let compared = all.iter().filter(|(.., result)| speedup(result).is_some()).count();
    let loss = |result: &Measured| speedup(result).filter(|ratio| *ratio < 1.0).map(f64::recip);
    let slower = worst(all, loss);
    let title = format!("The sparse path is slower than dense: {} of {compared}", slower.len());
    let none = if compared == 0 {
        "No problem could be compared."
    } else {
        "None: the sparse path is at least as fast as dense on every problem."
    };
    list(&title, none, &slower, "sparse over dense", |(loss, _)| format::ratio(*loss))
}

/// Results without a ratio, or with an error at or above its bound.
fn unusable(all: &[Named]) -> String {
    fn wrong(result: &Measured) -> bool {
        result.error.is_nan() || result.error >= 1.0
    }
    let loss = |result: &Measured| (speedup(result).is_none() || wrong(result)).then_some(0.0);
    let broken = worst(all, loss);
    if broken.is_empty() {
        return String::new();
    }
    let title = format!("Unusable results: {} of {}", broken.len(), all.len());
    list(&title, "", &broken, "reason", |(_, (.., result))| {
        if wrong(result) { "error at or above its bound" } else { "no time or no ratio" }.into()
    })
}
