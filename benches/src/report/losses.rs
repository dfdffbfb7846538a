//! What lost time: `Auto` slower than the faster path, sparse slower than dense; and unusable results.

use super::context::Context;
use super::html::{self, Section};
use crate::format;
use crate::metrics::{AUTO_SLACK, auto_over_faster, speedup};
use crate::record::{Measured, Run};
use crate::table;

/// A result, its run, and the short name of the run.
type Named<'a> = (String, &'a Run, &'a Measured);

/// The section: three lists with their lengths.
pub fn section(context: &Context) -> Section {
    let all: Vec<Named> = (0..context.runs.len())
        .flat_map(|index| {
            let run = &context.runs[index];
            run.results.iter().map(move |result| (context.tag(index), run, result))
        })
        .collect();
    let slack = format::percent(AUTO_SLACK - 1.0);
    let auto = format!("Auto is more than {slack} slower than the faster path");
    let sparse_over_dense = |result: &Measured| speedup(result).map(f64::recip);
    let error = |result: &Measured| {
        let usable = speedup(result).is_some() && !result.error.is_nan();
        Some(if usable { result.error } else { f64::INFINITY })
    };
    let unusable = "Unusable results: no time, no ratio, or an error above its bound";
    let body = [
        list(&all, &auto, "Auto over faster path", auto_over_faster, AUTO_SLACK),
        list(
            &all,
            "The sparse path is slower than dense",
            "sparse over dense",
            sparse_over_dense,
            1.0,
        ),
        list(&all, unusable, "error over bound", error, 1.0),
    ];
    let lead = "All problems on which dense is faster than sparse, and those on which Auto lost time, worst first.";
    Section { id: "losses", title: "Where dense is faster", lead: lead.into(), body: body.concat() }
}

/// The results with a `loss` above `limit`, largest first, and how many have one at all.
fn list(
    all: &[Named],
    title: &str,
    column: &str,
    loss: impl Fn(&Measured) -> Option<f64>,
    limit: f64,
) -> String {
    let found: Vec<_> = all.iter().filter_map(|named| Some((loss(named.2)?, named))).collect();
    let mut losses: Vec<_> = found.iter().filter(|(loss, _)| *loss > limit).collect();
    losses.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let heading = html::heading(3, &format!("{title}: {} of {}", losses.len(), found.len()));
    if losses.is_empty() {
        return heading;
    }
    let columns = [&["machine", column][..], &table::COLUMNS.map(|(name, _)| name)].concat();
    let rows = losses.iter().map(|(loss, (name, run, result))| {
        [vec![name.clone(), format::ratio(*loss)], table::row(result, &run.peaks)].concat()
    });
    heading + &html::table(&columns, 3, rows)
}
