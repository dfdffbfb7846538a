//! Speed-up over dense against sparsity: a plot per machine, layer, block, data type and state of the caches, with a
//! line per number of input rows.

use super::context::{self, Context};
use super::html::{self, Section};
use super::scale::{Kind, Scale, spread};
use super::svg::{Anchor, Frame, Point, Svg, WIDTH};
use crate::format;
use crate::metrics::{self, Crossover, break_even, compression, positive};
use crate::record::{Measured, Quartiles, Verb};

const HEIGHT: f64 = 292.0;
const LEFT: f64 = 44.0;
/// Leaves room for the label `M 4096`.
const RIGHT: f64 = WIDTH - 62.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = HEIGHT - 42.0;

/// Smallest height of the region below 1×, as a fraction of the region above: room for the break-even labels.
const BELOW: f64 = 0.15;

/// Smallest distance of two lines of text.
const LINE: f64 = 14.0;
/// Width of a percentage such as `97.5`, with a gap.
const NUMBER: f64 = 30.0;

/// The section, with all plots.
pub fn section(context: &Context) -> Section {
    let mut body = String::new();
    for (name, run) in context.named() {
        let forward: Vec<&Measured> =
            run.results.iter().filter(|result| result.problem.verb == Verb::Forward).collect();
        if forward.is_empty() {
            continue;
        }
        body += &html::heading(3, &name);
        let scales = scales(&forward);
        for (_, results) in context::layers(forward) {
            body += &html::heading(4, &format::layer(&results[0].problem));
            let plots = metrics::group(results, |result| context::variant(&result.problem));
            let plots = plots.iter().map(|(variant, group)| plot(context, variant, group, scales));
            body += &html::grid(&plots.collect::<String>());
        }
    }
    let lead = "Forward products: time of Burn's dense product divided by time of the block-sparse product, against the \
                percentage of blocks removed. One line per M, the rows of the input (tokens); bands are quartiles. Below \
                1×, shaded, dense is faster. A ring marks the break-even, interpolated as by `tune`; the dotted line \
                under it gives the sparsity in percent. The dashed diagonal is the speed-up if both products ran at the \
                same rate. Both axes are logarithmic, and the same for all plots of a machine.";
    Section { id: "speed-up", title: "Speed-up against sparsity", lead: lead.into(), body }
}

/// Common scales for all plots of a machine. They include ratio 1.
fn scales(results: &[&Measured]) -> (Scale, Scale) {
    let x = results.iter().filter_map(|result| compression(result.problem.sparsity));
    let y = results.iter().filter_map(|result| metrics::speedup(result).map(|_| result.speedup));
    let ratios: Vec<f64> = y.flat_map(Quartiles::all).collect();
    let highest = ratios.iter().copied().filter_map(positive).fold(1.25, f64::max);
    let y = ratios.into_iter().chain([highest, 0.8, highest.powf(-BELOW)]);
    (Scale::fit(Kind::Log, x, (LEFT, RIGHT)), Scale::fit(Kind::Log, y, (BOTTOM, TOP)))
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
    fn band(&self, frame: &Frame) -> Vec<Point> {
        let place = |result: &&Measured, ratio: f64| {
            let ratio = positive(ratio).unwrap_or(result.speedup.median);
            frame.x.at(compression(result.problem.sparsity)?).zip(frame.y.clamped(ratio))
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
    let mut frame = Frame { svg: Svg::new(HEIGHT), x, y };
    frame.losing(1.0);
    axes(&mut frame, group);
    frame.rule(1.0);
    ideal(&mut frame);
    for curve in &curves {
        frame.svg.area(&curve.band(&frame), &format!("band {}", curve.color));
    }
    draw_break_even(&mut frame, &curves);
    for curve in &curves {
        draw_curve(&mut frame, curve);
    }
    if frame.y.clamped(1.0).is_some_and(|edge| BOTTOM - edge > 2.0 * LINE) {
        frame.svg.text((RIGHT - 4.0, BOTTOM - 6.0), Anchor::End, "quiet", "dense is faster");
    }
    name_curves(&mut frame, &curves);
    let label =
        format!("Speed-up against sparsity, {}, {variant}", format::layer(&group[0].problem));
    html::figure("speed-up", variant, &frame.svg.finish(&label), &summary(&curves, group.len()))
}

/// Ticks at the measured sparsities, except where labels would overlap.
fn axes(frame: &mut Frame, group: &[&Measured]) {
    let sparsities = group.iter().map(|result| result.problem.sparsity);
    let mut free = f64::NEG_INFINITY;
    let mut ticks = Vec::new();
    for sparsity in context::distinct(sparsities, f64::total_cmp) {
        let Some(value) = compression(sparsity) else { continue };
        let Some(place) = frame.x.at(value).filter(|place| *place >= free) else { continue };
        let label = format::percent(sparsity).replace(" %", "");
        free = place + 8.0 + 7.0 * label.len() as f64;
        ticks.push((value, label));
    }
    frame.x_axis(&ticks, "sparsity, %");
    frame.y_axis(format::short_ratio, "speed-up over dense");
}

/// The speed-up at equal rates: ratio = compression.
fn ideal(frame: &mut Frame) {
    let ((from, to), (low, high)) = (frame.x.domain(), frame.y.domain());
    let (from, to) = (from.max(low), to.min(high));
    let ends = frame.at(from, from).zip(frame.at(to, to));
    if let Some((start, end)) = ends.filter(|_| from < to) {
        frame.svg.line(start, end, "ideal");
    }
}

fn draw_curve(frame: &mut Frame, curve: &Curve) {
    let color = &curve.color;
    let place =
        |result: &&Measured| frame.at(compression(result.problem.sparsity)?, result.speedup.median);
    let points: Vec<Point> = curve.results.iter().filter_map(place).collect();
    frame.svg.curve(&points, &format!("line {color}"));
    for (result, point) in curve.results.iter().zip(points) {
        let title = format!(
            "{}: {}",
            format::short(&result.problem),
            format::ratio_quartiles(&result.speedup)
        );
        frame.svg.mark(point, 2.8, &format!("dot {color}"), &title);
    }
}

/// A ring at each break-even, and a line down to its sparsity.
fn draw_break_even(frame: &mut Frame, curves: &[Curve]) {
    let Some(edge) = frame.y.clamped(1.0) else { return };
    let mut labels = Vec::new();
    for curve in curves {
        let Some(Crossover::At(sparsity)) = break_even(&curve.ratios()) else { continue };
        let Some(place) = compression(sparsity).and_then(|value| frame.x.at(value)) else {
            continue;
        };
        frame.svg.mark((place, edge), 4.5, &format!("ring {}", curve.color), "break-even");
        labels.push((place, curve.color.clone(), format::percent(sparsity).replace(" %", "")));
    }
    let wanted: Vec<f64> = labels.iter().map(|(place, ..)| *place).collect();
    // If they do not fit, only the list below the plot has them.
    if wanted.len() as f64 * NUMBER > RIGHT - LEFT {
        return;
    }
    let half = NUMBER / 2.0;
    for ((place, color, text), at) in
        labels.iter().zip(spread(&wanted, NUMBER, LEFT + half, RIGHT - half))
    {
        let foot = BOTTOM - 20.0;
        if foot > edge + 4.0 {
            frame.svg.curve(
                &[(*place, edge), (*place, foot - 6.0), (at, foot)],
                &format!("drop {color}"),
            );
            frame.svg.text((at, BOTTOM - 8.0), Anchor::Middle, "value", text);
        }
    }
}

/// Labels the curves at their right ends.
fn name_curves(frame: &mut Frame, curves: &[Curve]) {
    let end = |curve: &Curve| {
        let last = curve.results.last()?;
        frame.at(compression(last.problem.sparsity)?, last.speedup.median)
    };
    let ends: Vec<(&Curve, Point)> =
        curves.iter().filter_map(|curve| Some((curve, end(curve)?))).collect();
    let wanted: Vec<f64> = ends.iter().map(|(_, (_, y))| *y).collect();
    let places = spread(&wanted, LINE, TOP, BOTTOM);
    for ((curve, (x, y)), place) in ends.iter().zip(places) {
        frame.svg.curve(
            &[(*x, *y), (RIGHT + 4.0, place), (RIGHT + 11.0, place)],
            &format!("tie {}", curve.color),
        );
        frame.svg.text(
            (RIGHT + 14.0, place + 4.0),
            Anchor::Start,
            "value",
            &format!("M {}", curve.rows),
        );
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
