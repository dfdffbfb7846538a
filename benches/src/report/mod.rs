//! One self-contained HTML page from the records of one or several runs.
//!
//! [`page`] lays out the sections in the order of a reader's questions: what was measured, where sparse is faster, how
//! near it is to the limits of the device, where it is slower, and all numbers at the end. The page has no script and
//! loads nothing; its plots follow the reader's light or dark setting, and their text keeps its size on a phone.

mod auto;
mod context;
mod devices;
mod dot_plot;
mod header;
mod html;
mod losses;
mod roofline;
mod scale;
mod speedup;
mod svg;
#[cfg(test)]
mod tests;
mod verbs;

use crate::format::count;
use crate::record::Run;
use crate::table;
use context::Context;
use html::Section;

/// The page with its style sheet.
pub fn page(runs: &[Run]) -> String {
    let context = Context::new(runs);
    let header = header::header(&context);
    let sections: Vec<Section> =
        if runs.iter().all(|run| run.results.is_empty()) { Vec::new() } else { sections(&context) };
    let links: String = sections
        .iter()
        .map(|Section { id, title, .. }| format!("<a href=\"#{id}\">{title}</a>\n"))
        .collect();
    let body: String = sections.iter().map(Section::html).collect();
    let style = include_str!("style.css");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>burn-blast: block-sparse against dense</title>\n<style>\n{style}</style>\n</head>\n\
         <body>\n<header>\n{header}<nav aria-label=\"Contents\">\n{links}</nav>\n</header>\n<main>\n{body}</main>\n\
         </body>\n</html>\n"
    )
}

fn sections(context: &Context) -> Vec<Section> {
    let devices = devices::section(context);
    [speedup::section(context), roofline::section(context), roofline::decode_section(context)]
        .into_iter()
        .chain(devices)
        .chain([
            verbs::section(context),
            auto::section(context),
            losses::section(context),
            results(context),
        ])
        .collect()
}

/// All results: a collapsed table per machine.
fn results(context: &Context) -> Section {
    let filled = context.named().filter(|(_, run)| !run.results.is_empty());
    let tables = filled.map(|(name, run)| {
        let rows = run.results.iter().map(|result| table::row(result, &run.peaks));
        let columns = table::COLUMNS.map(|(name, _)| name);
        let table = html::table(&columns, 1..columns.len(), rows);
        html::details(&format!("{name}: {}", count(run.results.len(), "result")), false, &table)
    });
    let lead = "Medians of a call with quartiles over rounds. FLOPs are counted on the kept blocks or, dense-equivalent, \
                on the whole weight. Peaks are measured in the same run. The error is the largest one divided by its \
                bound, against the f64 oracle before timing; above 1 the run fails.";
    Section { id: "results", title: "All results", lead: lead.into(), body: tables.collect() }
}
