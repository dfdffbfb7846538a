//! Speed-up over dense against sparsity: a plot per machine, layer, verb, block, data type and state of the caches, with a
//! line per number of input rows.

use super::context::{self, Context};
use super::html::{self, Section};
use super::plot::{BOTTOM, LEFT, Plot, Point, RIGHT, Scale};
use crate::format;
use crate::metrics::{self, Crossover, break_even, compression, positive};
use crate::record::{Measured, Problem, Quartiles};

/// Smallest height of the region below 1×, as a fraction of the region above: room for its name.
const BELOW: f64 = 0.15;

/// The section, with all plots.
pub fn section(context: &Context) -> Section {
    let mut body = String::new();
    for (name, run) in context.named().filter(|(_, run)| !run.results.is_empty()) {
        body += &html::heading(3, &name);
        let scales = scales(&run.results);
        let layers = metrics::group(&run.results, |result| format::layer(&result.problem));
        for (layer, results) in layers {
            body += &html::heading(4, &layer);
            let plots = metrics::group(results, |result| variant(&result.problem));
            let plots = plots.iter().map(|(variant, group)| plot(context, variant, group, scales));
            body += &html::grid(&plots.collect::<String>());
        }
    }
    let lead = "Time of Burn's dense product divided by time of the block-sparse product, against the percentage of \
                blocks removed. One line per M, the rows of the input (tokens); bands are quartiles. Below 1×, shaded, \
                dense is faster. A ring marks the break-even, interpolated as by `tune`. The dashed diagonal is the \
                speed-up if both products ran at the same rate. A training step is forward, both gradients and AdamW. Both \
                axes are logarithmic, and the same for all plots of a machine.";
    Section { id: "speed-up", title: "Speed-up against sparsity", lead: lead.into(), body }
}

/// Verb, block, data type and caches: the properties in which the plots of a layer differ, as a heading.
fn variant(problem: &Problem) -> String {
    let Problem { verb, block, dtype, cold, .. } = *problem;
    format!("{}, block {block}, {dtype}, {}", format::verb(verb), format::caches(cold))
}

/// Common scales for all plots of a machine. They include ratio 1.
fn scales(results: &[Measured]) -> (Scale, Scale) {
    let x = results.iter().filter_map(|result| compression(result.problem.sparsity));
    let y = results.iter().filter_map(|result| metrics::speedup(result).map(|_| result.speedup));
    let ratios: Vec<f64> =
        y.flat_map(|Quartiles { low, median, high }| [low, median, high]).collect();
    let highest = ratios.iter().copied().filter_map(positive).fold(1.25, f64::max);
    let y = ratios.into_iter().chain([highest, 0.8, highest.powf(-BELOW)]);
    (Scale::horizontal(x), Scale::vertical(y))
}

/// Results of one number of rows that have a ratio, in rising order of sparsity.
struct Curve<'a> {
    rows: usize,
    color: String,
    results: Vec<&'a Measured>,
}

impl Curve<'_> {
    fn ratios(&self) -> Vec<(f64, f64)> {
        self.results.iter().map(|result| (result.problem.sparsity, result.speedup.median)).collect()
    }

    /// The band between the quartiles, as the outline of an area.
    fn band(&self, plot: &Plot) -> Vec<Point> {
        let place = |result: &&Measured, ratio: f64| {
            let ratio = positive(ratio).unwrap_or(result.speedup.median);
            plot.x.at(compression(result.problem.sparsity)?).zip(plot.y.clamped(ratio))
        };
        let above = self.results.iter().filter_map(|result| place(result, result.speedup.high));
        let below =
            self.results.iter().rev().filter_map(|result| place(result, result.speedup.low));
        above.chain(below).collect()
    }
}

fn curves<'a>(context: &Context, group: &[&'a Measured]) -> Vec<Curve<'a>> {
    let drawable = |result: &&&Measured| {
        metrics::speedup(result).is_some() && compression(result.problem.sparsity).is_some()
    };
    let mut curves: Vec<Curve> =
        metrics::group(group.iter().filter(drawable).copied(), |result| result.problem.rows)
            .into_iter()
            .map(|(rows, results)| Curve { rows, color: context.row_color(rows), results })
            .collect();
    curves.sort_by_key(|curve| curve.rows);
    for curve in &mut curves {
        curve.results.sort_by(|a, b| a.problem.sparsity.total_cmp(&b.problem.sparsity));
    }
    curves
}

fn plot(context: &Context, variant: &str, group: &[&Measured], (x, y): (Scale, Scale)) -> String {
    let curves = curves(context, group);
    let mut plot = Plot::new(x, y);
    if let Some(edge) = plot.y.clamped(1.0) {
        plot.area(&[(LEFT, edge), (RIGHT, edge), (RIGHT, BOTTOM), (LEFT, BOTTOM)], "lose");
    }
    axes(&mut plot, group);
    plot.rule(1.0, "even");
    ideal(&mut plot);
    for curve in &curves {
        plot.area(&curve.band(&plot), &format!("band {}", curve.color));
    }
    for curve in &curves {
        draw_curve(&mut plot, curve);
    }
    plot.text((RIGHT - 4.0, BOTTOM - 6.0), "end", "quiet", "dense is faster");
    let label =
        format!("Speed-up against sparsity, {}, {variant}", format::layer(&group[0].problem));
    plot.figure("speed-up", variant, &label, &summary(&curves, group.len()))
}

/// Ticks at the measured sparsities, except where labels would overlap.
fn axes(plot: &mut Plot, group: &[&Measured]) {
    let sparsities = group.iter().map(|result| result.problem.sparsity);
    let mut free = f64::NEG_INFINITY;
    let mut ticks = Vec::new();
    for sparsity in context::distinct(sparsities, f64::total_cmp) {
        let Some(value) = compression(sparsity) else { continue };
        let Some(place) = plot.x.at(value).filter(|place| *place >= free) else { continue };
        let label = format::percent(sparsity).replace(" %", "");
        free = place + 8.0 + 7.0 * label.len() as f64;
        ticks.push((value, label));
    }
    plot.x_axis(&ticks, "sparsity, %");
    plot.y_axis(format::short_ratio, "speed-up over dense");
}

/// The speed-up at equal rates: ratio = compression.
fn ideal(plot: &mut Plot) {
    let ((from, to), (low, high)) = (plot.x.domain, plot.y.domain);
    let (from, to) = (from.max(low), to.min(high));
    let ends = plot.at(from, from).zip(plot.at(to, to));
    if let Some((start, end)) = ends.filter(|_| from < to) {
        plot.line(&[start, end], "ideal");
    }
}

/// The line of a curve, its points, and a ring at its break-even.
fn draw_curve(plot: &mut Plot, curve: &Curve) {
    let color = &curve.color;
    let place =
        |result: &&Measured| plot.at(compression(result.problem.sparsity)?, result.speedup.median);
    let points: Vec<Point> = curve.results.iter().filter_map(place).collect();
    plot.line(&points, &format!("line {color}"));
    for (result, point) in curve.results.iter().zip(points) {
        let ratio = format::ratio_quartiles(&result.speedup);
        let title = format!("{}: {ratio}", format::short(&result.problem));
        plot.mark(point, 2.8, &format!("dot {color}"), &title);
    }
    if let Some(Crossover::At(sparsity)) = break_even(&curve.ratios())
        && let Some(place) = compression(sparsity).and_then(|value| plot.at(value, 1.0))
    {
        plot.mark(place, 4.5, &format!("ring {color}"), "break-even");
    }
}

/// The break-even of every curve as text.
fn summary(curves: &[Curve], measured: usize) -> String {
    let entry = |curve: &Curve| {
        let text = match break_even(&curve.ratios())? {
            Crossover::Always(lowest) => {
                format!("faster from {}, the lowest measured", format::percent(lowest))
            }
            Crossover::At(sparsity) => format!("break-even at {}", format::percent(sparsity)),
            Crossover::Never(highest) => {
                format!("slower up to {}, the highest measured", format::percent(highest))
            }
        };
        Some((format!("dot {}", curve.color), format!("M {}: {text}", curve.rows)))
    };
    let mut entries: Vec<_> = curves.iter().filter_map(entry).collect();
    let drawn: usize = curves.iter().map(|curve| curve.results.len()).sum();
    if drawn < measured {
        entries.push((
            "none".into(),
            format!("{} without a ratio or a position on the axis", measured - drawn),
        ));
    }
    html::legend(&entries)
}
