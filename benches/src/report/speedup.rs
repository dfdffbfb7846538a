//! Speed-up over dense against sparsity: a plot per machine, layer, block, data type and state of the caches, with a
//! line per number of rows.

use super::facts::{self, BreakEven, break_even, compression, crossings, positive};
use super::html::{self, Section};
use super::scale::{Kind, Scale, spread};
use super::shared::{self, Shared};
use super::svg::{Anchor, Frame, Point, Svg, WIDTH};
use super::words;
use crate::record::{Measured, Verb};

const HEIGHT: f64 = 292.0;
const LEFT: f64 = 44.0;
/// Leaves room for `M 4096`.
const RIGHT: f64 = WIDTH - 62.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = HEIGHT - 42.0;

/// Least height of the losing region over that of the winning one: room for the labels of the break-even.
const LOSING: f64 = 0.15;

/// Least distance of two lines of text.
const LINE: f64 = 14.0;
/// Width of a percentage such as `97.5`, with a gap.
const NUMBER: f64 = 30.0;

/// The section, with all plots.
pub fn section(shared: &Shared) -> Section {
    let mut body = String::new();
    for (name, run) in shared.named() {
        let forward: Vec<&Measured> =
            run.results.iter().filter(|result| result.problem.verb == Verb::Forward).collect();
        if forward.is_empty() {
            continue;
        }
        body += &html::heading(3, &name);
        let scales = scales(&forward);
        for (_, results) in shared::layers(forward) {
            body += &html::heading(4, &words::layer(&results[0].problem));
            let plots = facts::group(results, |result| shared::variant(&result.problem));
            body += &html::grid(
                &plots
                    .iter()
                    .map(|(variant, group)| plot(shared, variant, group, scales))
                    .collect::<String>(),
            );
        }
    }
    let lead = "Time of Burn's dense product over time of the block-sparse product, forward, against the share of \
                blocks removed. One line per M, the rows of the input (tokens); bands are quartiles. Below 1×, \
                shaded, dense is faster. A ring is a crossing of 1×; the dotted line under it gives the break-even \
                sparsity in percent. The dashed diagonal is dense work over kept work, the gain if both \
                ran at the same rate. Both axes are logarithmic and alike for all plots of a machine.";
    Section { id: "speed-up", title: "Speed-up against sparsity", lead: lead.into(), body }
}

/// One pair of scales for a machine, so that its plots can be compared by eye. Always holds ratio 1.
fn scales(results: &[&Measured]) -> (Scale, Scale) {
    let x = results.iter().filter_map(|result| compression(result.problem.sparsity));
    let y = results.iter().filter_map(|result| facts::speedup(result).map(|_| result.speedup));
    let ratios: Vec<f64> = y.flat_map(|ratio| [ratio.low, ratio.median, ratio.high]).collect();
    let highest = ratios.iter().copied().filter_map(positive).fold(1.25, f64::max);
    let y = ratios.into_iter().chain([highest, 0.8, highest.powf(-LOSING)]);
    (Scale::fit(Kind::Log, x, (LEFT, RIGHT)), Scale::fit(Kind::Log, y, (BOTTOM, TOP)))
}

/// Results of one number of rows, in rising order of sparsity; without those that have no ratio.
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

fn curves<'a>(shared: &Shared, group: &[&'a Measured]) -> Vec<Curve<'a>> {
    let drawable = |result: &&&Measured| {
        facts::speedup(result).is_some() && compression(result.problem.sparsity).is_some()
    };
    let mut curves: Vec<Curve> =
        facts::group(group.iter().filter(drawable).copied(), |result| result.problem.rows)
            .into_iter()
            .map(|(rows, results)| Curve { rows, color: shared.row_color(rows), results })
            .collect();
    curves.sort_by_key(|curve| curve.rows);
    for curve in &mut curves {
        curve.results.sort_by(|a, b| a.problem.sparsity.total_cmp(&b.problem.sparsity));
    }
    curves
}

fn plot(shared: &Shared, variant: &str, group: &[&Measured], (x, y): (Scale, Scale)) -> String {
    let curves = curves(shared, group);
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
        format!("Speed-up against sparsity, {}, {variant}", words::layer(&group[0].problem));
    html::figure("speed-up", variant, &frame.svg.finish(&label), &summary(&curves, group.len()))
}

/// Ticks at the sparsities that were measured, without those that would touch.
fn axes(frame: &mut Frame, group: &[&Measured]) {
    let mut sparsities: Vec<f64> = group.iter().map(|result| result.problem.sparsity).collect();
    sparsities.sort_by(f64::total_cmp);
    sparsities.dedup();
    let mut free = f64::NEG_INFINITY;
    let mut ticks = Vec::new();
    for sparsity in sparsities {
        let Some(value) = compression(sparsity) else { continue };
        let Some(place) = frame.x.at(value).filter(|place| *place >= free) else { continue };
        let label = words::percent(sparsity).replace(" %", "");
        free = place + 8.0 + 7.0 * label.len() as f64;
        ticks.push((value, label));
    }
    frame.x_axis(&ticks, "sparsity, %");
    let ticks: Vec<_> =
        frame.y.ticks(20.0).into_iter().map(|v| (v, format!("{}×", words::round(v)))).collect();
    frame.y_axis(&ticks, "speed-up over dense");
}

/// The gain at equal rates: ratio = compression.
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
        let title =
            format!("{}: {}", words::short(&result.problem), words::ratio_spread(&result.speedup));
        frame.svg.mark(point, 2.8, &format!("dot {color}"), &title);
    }
}

/// A ring at every crossing; from the break-even a line down to its sparsity, at the edge of the losing region.
fn draw_break_even(frame: &mut Frame, curves: &[Curve]) {
    let Some(edge) = frame.y.clamped(1.0) else { return };
    let mut labels = Vec::new();
    for curve in curves {
        let ratios = curve.ratios();
        for place in crossings(&ratios).iter().filter_map(|s| frame.x.at(compression(*s)?)) {
            frame.svg.mark((place, edge), 4.5, &format!("ring {}", curve.color), "break-even");
        }
        let Some(BreakEven::From(sparsity)) = break_even(&ratios) else { continue };
        let Some(place) = compression(sparsity).and_then(|value| frame.x.at(value)) else {
            continue;
        };
        labels.push((place, curve.color.clone(), words::percent(sparsity).replace(" %", "")));
    }
    let wanted: Vec<f64> = labels.iter().map(|(place, ..)| *place).collect();
    // Where they do not fit, the list below the plot holds them.
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

/// Names the curves at their right ends.
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

/// The break-even of every curve in words.
fn summary(curves: &[Curve], measured: usize) -> String {
    let entry = |curve: &Curve| {
        let text = match break_even(&curve.ratios())? {
            BreakEven::Always(lowest) => {
                format!("ahead from {}, the lowest measured", words::percent(lowest))
            }
            BreakEven::From(sparsity) => format!("break-even at {}", words::percent(sparsity)),
            BreakEven::Never(highest) => {
                format!("behind at {}, the highest measured", words::percent(highest))
            }
        };
        Some((format!("dot {}", curve.color), format!("M {}: {text}", curve.rows)))
    };
    let mut entries: Vec<_> = curves.iter().filter_map(entry).collect();
    let drawn: usize = curves.iter().map(|curve| curve.results.len()).sum();
    if drawn < measured {
        entries.push((
            "none".into(),
            format!("{} without a ratio or a place on the axis", measured - drawn),
        ));
    }
    html::legend(&entries)
}
