//! The same problems on several machines, side by side.

use std::cmp::Reverse;

use super::facts::{self, positive};
use super::html::{self, Section};
use super::lanes::{Dot, Lane, Lanes};
use super::scale::Kind;
use super::shared::{self, Shared, color, letter};
use super::words;
use crate::record::{Measured, Spread};

/// A result and the index of its run.
type Placed<'a> = (usize, &'a Measured);

/// The section, where a problem was measured by two runs or more; none otherwise.
pub fn section(shared: &Shared) -> Option<Section> {
    let all = shared
        .runs
        .iter()
        .enumerate()
        .flat_map(|(index, run)| run.results.iter().map(move |r| (index, r)));
    let problems: Vec<Vec<Placed>> = facts::group(all, |(_, result)| words::id(&result.problem))
        .into_iter()
        .map(|(_, results)| results)
        .filter(|results| results.iter().any(|(index, _)| *index != results[0].0))
        .collect();
    if problems.is_empty() {
        return None;
    }
    let entries = |(index, (name, _))| (format!("dot {}", color(Some(index))), name);
    let mut legend: Vec<_> = shared.named().enumerate().map(entries).collect();
    legend.push(("dot ink".into(), "block-sparse".into()));
    legend.push(("ring ink".into(), "dense".into()));
    let layers = facts::group(&problems, |results| shared::layer(&results[0].1.problem));
    let plots: String =
        layers.iter().enumerate().map(|(index, (_, group))| plots(group, index == 0)).collect();
    let body = html::legend(&legend)
        + &plots
        + &html::details(
            &format!("Times of {}", words::count(problems.len(), "shared problem")),
            false,
            &table(shared, &problems),
        );
    let lead = "Time of a call where several files hold the same problem; a lane per sparsity, further left is faster.";
    Some(Section { id: "devices", title: "Device against device", lead: lead.into(), body })
}

/// All plots of a layer; they are long, so only those of the first layer are open.
fn plots(problems: &[&Vec<Placed>], open: bool) -> String {
    let mut plots = facts::group(problems, |results| {
        let problem = &results[0].1.problem;
        (problem.verb, shared::variant(problem))
    });
    // Plots of a height beside each other.
    plots.sort_by_key(|(_, group)| Reverse(group.len()));
    let figures: String = plots.iter().map(|(_, group)| plot(group)).collect();
    html::details(&words::layer(&problems[0][0].1.problem), open, &html::grid(&figures))
}

fn plot(group: &[&&Vec<Placed>]) -> String {
    let mut lanes: Vec<((usize, f64), Lane)> = group.iter().map(|results| lane(results)).collect();
    lanes.sort_by(|(a, _), (b, _)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let lanes: Vec<Lane> = lanes.into_iter().map(|(_, lane)| lane).collect();
    let plot = Lanes {
        scale: Lanes::fit(Kind::Log, &lanes, &[]),
        axis: "time of a call",
        tick: words::short_seconds,
        rule: None,
        losing: false,
        lanes,
    };
    let problem = &group[0][0].1.problem;
    let heading = format!("{}, {}", words::verb(problem.verb), shared::variant(problem));
    let label = format!("Times on several machines, {}, {heading}", words::layer(problem));
    html::figure("devices", &heading, &plot.draw(&label), "")
}

/// Rows and sparsity, to sort by, and the times of all machines.
fn lane(results: &[Placed]) -> ((usize, f64), Lane) {
    let problem = &results[0].1.problem;
    let dot = |index: usize, shape: &str, time: &Spread| {
        let title = format!(
            "{}, {}: {}",
            letter(index),
            words::short(problem),
            words::seconds(time.median)
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
    let (group, label) = (format!("M {}", problem.rows), words::percent(problem.sparsity));
    ((problem.rows, problem.sparsity), Lane { group, label, dots: dots.collect() })
}

fn table(shared: &Shared, problems: &[Vec<Placed>]) -> String {
    let letters: Vec<usize> = (0..shared.runs.len()).collect();
    let heads: Vec<String> = letters
        .iter()
        .flat_map(|index| ["block-sparse", "dense"].map(|way| format!("{}, {way}", letter(*index))))
        .collect();
    let columns: Vec<&str> =
        ["problem"].into_iter().chain(heads.iter().map(String::as_str)).collect();
    let times = |results: &[Placed], index: usize| {
        let found = results.iter().find(|(run, _)| *run == index);
        found.map_or([words::NOTHING.into(), words::NOTHING.into()], |(_, result)| {
            [words::seconds(result.sparse.median), words::seconds(result.dense.median)]
        })
    };
    let rows = problems.iter().map(|results| {
        let cells = letters.iter().flat_map(|index| times(results, *index));
        [words::id(&results[0].1.problem)].into_iter().chain(cells).collect()
    });
    html::table(&columns, 1..columns.len(), rows)
}
