//! One self-contained HTML page from the records of one or several runs.
//!
//! [`page`] lays out the sections in the order of a reader's questions: what was measured, where sparse is faster, how
//! near it is to the limits of the device, where it is slower, and all numbers at the end. The page has no script and
//! loads nothing; its plots follow the reader's light or dark setting, and their text keeps its size on a phone.

mod context;
mod html;
mod losses;
mod plot;
mod roofline;
mod speedup;
#[cfg(test)]
mod tests;

use crate::format::{self, count};
use crate::metrics::{self, AUTO_SLACK, auto_over_faster, speedup};
use crate::record::{Measured, Run};
use crate::table::{self, FACTS};
use context::Context;
use html::Section;

/// The page with its style sheet.
pub fn page(runs: &[Run]) -> String {
    let context = Context::new(runs);
    let header = header(&context);
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
    [Some(speedup::section(context)), Some(roofline::section(context)), devices(context)]
        .into_iter()
        .flatten()
        .chain([losses::section(context), results(context)])
        .collect()
}

/// Title, what was measured, outcome and machines.
fn header(context: &Context) -> String {
    let title = "<h1>Block-sparse against dense in Burn</h1>\n";
    let problems: usize = context.runs.iter().map(|run| run.results.len()).sum();
    if problems == 0 {
        let empty = "<p class=\"lead\">There are no results in these files. Measure some with <code>blast-bench \
                     run</code>.</p>\n";
        return format!("{title}{empty}{}", machines(context));
    }
    let lead = format!(
        "<p class=\"lead\">{} on {}. A problem is one layer at one number of rows, block and sparsity. The \
         block-sparse kernel and Burn's dense product ran it on the same device, in the same data type, in interleaved rounds. \
         Speed-up is dense time over sparse time of the same round. Points are medians over rounds, bands quartiles.</p>\n",
        count(problems, "problem"),
        count(context.runs.len(), "machine"),
    );
    format!("{title}{lead}{}{}", outcome(context), machines(context))
}

/// One line per machine with what most readers want first.
fn outcome(context: &Context) -> String {
    let slack =
        format!("Auto over {} slower than the faster path", format::percent(AUTO_SLACK - 1.0));
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
    html::table(&columns, 1, context.named().map(|(name, run)| outcome_row(name, run)))
}

fn outcome_row(name: String, run: &Run) -> Vec<String> {
    let mut ratios: Vec<f64> = run.results.iter().filter_map(speedup).collect();
    ratios.sort_by(f64::total_cmp);
    let slower = ratios.iter().filter(|ratio| **ratio < 1.0).count();
    let at = |index: usize| {
        ratios.get(index).map_or(format::NOTHING.into(), |ratio| format::ratio(*ratio))
    };
    let auto: Vec<f64> = run.results.iter().filter_map(auto_over_faster).collect();
    let losing = auto.iter().filter(|ratio| **ratio > AUTO_SLACK).count();
    vec![
        name,
        run.results.len().to_string(),
        (ratios.len() - slower).to_string(),
        slower.to_string(),
        at(0),
        at(ratios.len() / 2),
        at(ratios.len().wrapping_sub(1)),
        if auto.is_empty() {
            format::NOTHING.into()
        } else {
            format!("{losing} of {}", auto.len())
        },
    ]
}

/// A column per machine.
fn machines(context: &Context) -> String {
    if context.runs.is_empty() {
        return String::new();
    }
    let tags = (0..context.runs.len()).map(|index| context.tag(index));
    let columns: Vec<String> = [String::new()].into_iter().chain(tags).collect();
    let rows = FACTS.iter().map(|(name, fact)| {
        let texts = context.runs.iter().map(|run| fact(&run.machine, &run.peaks));
        let known = texts.map(|text| if text.is_empty() { format::NOTHING.into() } else { text });
        [name.to_string()].into_iter().chain(known).collect()
    });
    html::table(&columns, columns.len(), rows)
}

/// Times of the problems that two or more runs measured, if there are any.
fn devices(context: &Context) -> Option<Section> {
    let runs = context.runs.iter().enumerate();
    let all = runs.flat_map(|(index, run)| run.results.iter().map(move |result| (index, result)));
    let mut problems = metrics::group(all, |(_, result)| format::id(&result.problem));
    problems.retain(|(_, results)| results.iter().any(|(index, _)| *index != results[0].0));
    if problems.is_empty() {
        return None;
    }
    let heads = (0..context.runs.len()).flat_map(|index| {
        ["block-sparse", "dense"].map(|path| format!("{}, {path}", context.tag(index)))
    });
    let columns: Vec<String> = ["problem".to_owned()].into_iter().chain(heads).collect();
    let times = |results: &[(usize, &Measured)], index: usize| {
        let found = results.iter().find(|(run, _)| *run == index);
        found.map_or([format::NOTHING.into(), format::NOTHING.into()], |(_, result)| {
            [result.sparse, result.dense].map(|time| format::seconds(time.median))
        })
    };
    let rows = problems.into_iter().map(|(problem, results)| {
        let cells = (0..context.runs.len()).flat_map(|index| times(&results, index));
        [problem].into_iter().chain(cells).collect()
    });
    let body = html::table(&columns, 1, rows);
    let lead = "Median time of a call for problems that several records share.";
    Some(Section { id: "devices", title: "Device against device", lead: lead.into(), body })
}

/// All results: a collapsed table per machine.
fn results(context: &Context) -> Section {
    let filled = context.named().filter(|(_, run)| !run.results.is_empty());
    let tables = filled.map(|(name, run)| {
        let rows = run.results.iter().map(|result| table::row(result, &run.peaks));
        let table = html::table(&table::COLUMNS.map(|(name, _)| name), 1, rows);
        html::details(&format!("{name}: {}", count(run.results.len(), "result")), &table)
    });
    let lead = "Medians of a call with quartiles over rounds. FLOPs are counted on the kept blocks. Peaks are measured in the same run. The error is the largest one divided by its \
                bound, against the f64 oracle before timing; above 1 the run fails.";
    Section { id: "results", title: "All results", lead: lead.into(), body: tables.collect() }
}
