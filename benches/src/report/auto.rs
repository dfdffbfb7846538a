//! The choices of `Strategy::Auto`, compared with both paths.

use super::context::Context;
use super::html::{self, Section};
use super::plot::{BOTTOM, LEFT, Plot, Scale};
use crate::format;
use crate::metrics::{AUTO_SLACK, auto_over_dense, positive};
use crate::record::{Measured, Run};

/// The section: one plot per machine, with the same axes.
pub fn section(context: &Context) -> Section {
    let all = || context.runs.iter().flat_map(points);
    let x = Scale::horizontal(all().map(|(x, ..)| x).chain([0.8, 1.25]));
    let y = Scale::vertical(all().map(|(_, y, _)| y).chain([0.85, 1.05]));
    let plots: String =
        context.named().filter_map(|(name, run)| plot(&name, run, Plot::new(x, y))).collect();
    let mut body = String::new();
    if !plots.is_empty() {
        let entries =
            [("dot c0", "Auto took the sparse path"), ("dot c1", "Auto took the dense path")];
        let entries = entries.map(|(class, text)| (class.to_string(), text.to_string()));
        body = html::legend(&entries) + &html::grid(&plots);
    }
    let slack = format::percent(AUTO_SLACK - 1.0);
    let lead = format!(
        "Speed of Auto divided by the speed of the faster path, against the speed-up of the sparse path. At 1× the \
         choice was right and cost nothing; below 1× Auto lost time. Shaded: Auto is more than {slack} slower than dense."
    );
    Section { id: "auto", title: "Auto against dense and sparse", lead, body }
}

/// Speed-up of the sparse path, speed of `Auto` divided by the speed of the faster path, and the result.
fn points(run: &Run) -> impl Iterator<Item = (f64, f64, &Measured)> {
    run.results.iter().filter_map(|result| {
        let (sparse, dense) = (positive(result.sparse.median)?, positive(result.dense.median)?);
        let best_over_dense = (sparse / dense).min(1.0);
        Some((dense / sparse, best_over_dense / auto_over_dense(result)?, result))
    })
}

fn plot(name: &str, run: &Run, mut plot: Plot) -> Option<String> {
    points(run).next()?;
    losing(&mut plot);
    let ticks = plot.x.labels(34.0, format::short_ratio);
    plot.x_axis(&ticks, "speed-up of the sparse path over dense");
    plot.y_axis(format::short_ratio, "speed of Auto over faster path");
    plot.rule(1.0, "even");
    for (x, y, result) in points(run) {
        let Some(point) = plot.at(x, y) else { continue };
        let path = result.auto_path.as_deref().unwrap_or("unknown");
        let color = match path {
            "sparse" => "c0",
            "dense" => "c1",
            _ => "ink",
        };
        let (id, ratio) = (format::id(&result.problem), format::ratio(y));
        let title = format!("{id}: {ratio} of the faster path, took {path}");
        plot.mark(point, 3.2, &format!("dot {color}"), &title);
    }
    plot.text((LEFT + 4.0, BOTTOM - 6.0), "start", "quiet", "Auto is slower");
    Some(plot.figure("auto", name, &format!("Auto against dense and sparse, {name}"), ""))
}

/// Shades the region where `Auto` is slower than dense by more than the slack. Dense is the faster path up to a speed-up
/// of 1; beyond, a wrong choice is slower than dense only if it loses more than sparse gains.
fn losing(plot: &mut Plot) {
    let ((first, last), (lowest, _)) = (plot.x.domain, plot.y.domain);
    let edge = 1.0 / AUTO_SLACK;
    let end = (edge / lowest).clamp(1.0, last);
    let corners = [(first, edge), (1.0, edge), (end, edge / end), (end, lowest), (first, lowest)];
    let corners: Vec<_> = corners.into_iter().filter_map(|(x, y)| plot.at(x, y)).collect();
    plot.area(&corners, "lose");
}
