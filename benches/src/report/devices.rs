//! The same problems on several machines.

use std::cmp::Reverse;

use super::context::{self, Context, color, letter};
use super::dot_plot::{Dot, DotPlot, DotRow};
use super::html::{self, Section};
use super::scale::Kind;
use crate::format;
use crate::metrics::{self, positive};
use crate::record::{Measured, Quartiles};

/// A result and the index of its run.
type Placed<'a> = (usize, &'a Measured);

/// The section, if two or more runs measured the same problem.
pub fn section(context: &Context) -> Option<Section> {
    let all = context
        .runs
        .iter()
        .enumerate()
        .flat_map(|(index, run)| run.results.iter().map(move |r| (index, r)));
    let problems: Vec<Vec<Placed>> = metrics::group(all, |(_, result)| format::id(&result.problem))
        .into_iter()
        .map(|(_, results)| results)
        .filter(|results| results.iter().any(|(index, _)| *index != results[0].0))
        .collect();
    if problems.is_empty() {
        return None;
    }
    let entries = |(index, (name, _))| (format!("dot {}", color(Some(index))), name);
    let mut legend: Vec<_> = context.named().enumerate().map(entries).collect();
    legend.push(("dot ink".into(), "block-sparse".into()));
    legend.push(("ring ink".into(), "dense".into()));
    let layers = metrics::group(&problems, |results| context::layer(&results[0].1.problem));
    let plots: String =
        layers.iter().enumerate().map(|(index, (_, group))| plots(group, index == 0)).collect();
    let body = html::legend(&legend)
        + &plots
        + &html::details(
            &format!("Times of {}", format::count(problems.len(), "shared problem")),
            false,
            &table(context, &problems),
        );
    let lead = "Time of a call for problems that several records share, with a row per sparsity. Further left is faster.";
    Some(Section { id: "devices", title: "Device against device", lead: lead.into(), body })
}

/// All plots of a layer; they are long, so only the plots of the first layer are open.
fn plots(problems: &[&Vec<Placed>], open: bool) -> String {
    let mut plots = metrics::group(problems, |results| {
        let problem = &results[0].1.problem;
        (problem.verb, context::variant(problem))
    });
    // Plots of the same height side by side.
    plots.sort_by_key(|(_, group)| Reverse(group.len()));
    let figures: String = plots.iter().map(|(_, group)| plot(group)).collect();
    html::details(&format::layer(&problems[0][0].1.problem), open, &html::grid(&figures))
}

fn plot(group: &[&&Vec<Placed>]) -> String {
    let mut rows: Vec<((usize, f64), DotRow)> = group.iter().map(|results| row(results)).collect();
    rows.sort_by(|(a, _), (b, _)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let rows: Vec<DotRow> = rows.into_iter().map(|(_, row)| row).collect();
    let plot = DotPlot {
        scale: DotPlot::fit(Kind::Log, &rows, &[]),
        axis: "time of a call",
        tick: format::short_seconds,
        rule: None,
        losing: false,
        rows,
    };
    let problem = &group[0][0].1.problem;
    let heading = format!("{}, {}", format::verb(problem.verb), context::variant(problem));
    let label = format!("Times on several machines, {}, {heading}", format::layer(problem));
    html::figure("devices", &heading, &plot.draw(&label), "")
}

/// A row with the times of all machines, and its sort key: input rows and sparsity.
fn row(results: &[Placed]) -> ((usize, f64), DotRow) {
    let problem = &results[0].1.problem;
    let dot = |index: usize, shape: &str, time: &Quartiles| {
        let title = format!(
            "{}, {}: {}",
            letter(index),
            format::short(problem),
            format::seconds(time.median)
        );
        let class = format!("{shape} {}", color(Some(index)));
        positive(time.median).map(|value| Dot {
            value,
            quartiles: Some((time.low, time.high)),
            class,
            title,
        })
    };
    let dots = results.iter().flat_map(|(index, result)| {
        [dot(*index, "ring", &result.dense), dot(*index, "dot", &result.sparse)]
            .into_iter()
            .flatten()
    });
    let (group, label) = (format!("M {}", problem.rows), format::percent(problem.sparsity));
    ((problem.rows, problem.sparsity), DotRow { group, label, dots: dots.collect() })
}

fn table(context: &Context, problems: &[Vec<Placed>]) -> String {
    let letters: Vec<usize> = (0..context.runs.len()).collect();
    let heads: Vec<String> = letters
        .iter()
        .flat_map(|index| ["block-sparse", "dense"].map(|way| format!("{}, {way}", letter(*index))))
        .collect();
    let columns: Vec<&str> =
        ["problem"].into_iter().chain(heads.iter().map(String::as_str)).collect();
    let times = |results: &[Placed], index: usize| {
        let found = results.iter().find(|(run, _)| *run == index);
        found.map_or([format::NOTHING.into(), format::NOTHING.into()], |(_, result)| {
            [format::seconds(result.sparse.median), format::seconds(result.dense.median)]
        })
    };
    let rows = problems.iter().map(|results| {
        let cells = letters.iter().flat_map(|index| times(results, *index));
        [format::id(&results[0].1.problem)].into_iter().chain(cells).collect()
    });
    html::table(&columns, 1..columns.len(), rows)
}
