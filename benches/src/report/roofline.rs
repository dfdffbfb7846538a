//! Roofline: FLOP/s on kept work against FLOP per byte of weight, under the limits measured in the same run.

use super::Run;
use super::facts::{intensity, kept_rate, peak};
use super::html::{self, Section};
use super::scale::{Kind, Scale};
use super::shared::Shared;
use super::svg::{Anchor, Frame, Svg, WIDTH};
use super::words;
use crate::record::{Limit, Measured, Verb};

const HEIGHT: f64 = 310.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = WIDTH - 12.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = HEIGHT - 42.0;

/// The section: one plot per machine.
pub fn section(shared: &Shared) -> Section {
    let x = shared.runs.iter().flat_map(points).map(|(x, ..)| x);
    let x = Scale::fit(Kind::Log, x, (LEFT, RIGHT));
    let plots: String =
        shared.named().filter_map(|(name, run)| plot(shared, &name, run, x)).collect();
    let mut body = String::new();
    if !plots.is_empty() {
        body = legend(shared) + &html::grid(&plots);
    }
    let lead = "Forward products: FLOP/s on kept blocks against FLOP per byte of weight read, one plot per machine. \
                The flat line is Burn's best dense f32 product of the same run, the slope the \
                measured rate of reading memory. Points above the slope read their weight from a cache; points of \
                other data types than f32 may lie above the flat line.";
    Section { id: "roofline", title: "Roofline", lead: lead.into(), body }
}

/// Colours of the data types, and the two states of the caches.
pub fn legend(shared: &Shared) -> String {
    let mut entries: Vec<_> = shared
        .dtypes()
        .iter()
        .map(|dtype| (format!("dot {}", shared.dtype_color(dtype)), dtype.to_string()))
        .collect();
    entries.push(("dot ink".into(), "warm: weight may lie in a cache".into()));
    entries.push(("ring ink".into(), "cold: caches emptied before each call".into()));
    html::legend(&entries)
}

/// Class of a mark: filled if warm, a ring if cold, in the colour of the data type.
pub fn mark_class(shared: &Shared, result: &Measured) -> String {
    let shape = if result.problem.cold { "ring" } else { "dot" };
    format!("{shape} {}", shared.dtype_color(&result.problem.dtype))
}

/// Intensity, rate and result of every forward problem that has both.
fn points(run: &Run) -> impl Iterator<Item = (f64, f64, &Measured)> {
    let forward = run.results.iter().filter(|result| result.problem.verb == Verb::Forward);
    forward.filter_map(|result| Some((intensity(result)?, kept_rate(result)?, result)))
}

fn plot(shared: &Shared, name: &str, run: &Run, x: Scale) -> Option<String> {
    points(run).next()?;
    // The ceiling belongs on the page even where no problem comes near it.
    let y = points(run).map(|(_, y, _)| y).chain(peak(run, Limit::DenseF32));
    let y = Scale::fit(Kind::Log, y, (BOTTOM, TOP));
    let mut frame = Frame { svg: Svg::new(HEIGHT), x, y };
    let ticks: Vec<_> =
        frame.x.ticks(28.0).into_iter().map(|v| (v, words::short_rate(v))).collect();
    frame.x_axis(&ticks, "FLOP per byte of weight");
    let ticks: Vec<_> =
        frame.y.ticks(20.0).into_iter().map(|v| (v, words::short_rate(v))).collect();
    frame.y_axis(&ticks, "FLOP/s on kept blocks");
    for (x, y, result) in points(run) {
        let Some(point) = frame.at(x, y) else { continue };
        let title = format!("{}: {}", words::id(&result.problem), words::rate(y, "FLOP/s"));
        frame.svg.mark(point, 3.2, &mark_class(shared, result), &title);
    }
    let remark = roof(&mut frame, peak(run, Limit::DenseF32), peak(run, Limit::Read));
    let label = format!("Roofline, {name}");
    Some(html::figure("roofline", name, &frame.svg.finish(&label), remark))
}

/// Draws the limits that were measured; says which were not.
fn roof(frame: &mut Frame, dense: Option<f64>, read: Option<f64>) -> &'static str {
    let ((first, last), (low, high)) = (frame.x.domain(), frame.y.domain());
    let ridge = dense.zip(read).map(|(dense, read)| dense / read);
    if let Some(read) = read {
        let (from, to) =
            (first.max(low / read), last.min(high / read).min(ridge.unwrap_or(f64::INFINITY)));
        if let Some((start, end)) =
            frame.at(from, from * read).zip(frame.at(to, to * read)).filter(|_| from < to)
        {
            frame.svg.line(start, end, "even");
            let text = format!("read {}", words::rate(read, "B/s"));
            frame.svg.text_up_to(start, end, "value", &text);
        }
    }
    if let Some(dense) = dense {
        let from = ridge.unwrap_or(first).max(first);
        if let Some((start, end)) =
            frame.at(from, dense).zip(frame.at(last, dense)).filter(|_| from < last)
        {
            frame.svg.line(start, end, "even");
        }
        if let Some((_, y)) = frame.at(last, dense) {
            let text = format!("dense f32 {}", words::rate(dense, "FLOP/s"));
            frame.svg.text((RIGHT - 2.0, y - 6.0), Anchor::End, "value", &text);
        }
    }
    match (dense, read) {
        (Some(_), Some(_)) => "",
        (None, Some(_)) => "<p class=\"note\">This run has no measured dense f32 rate.</p>",
        (Some(_), None) => "<p class=\"note\">This run has no measured rate of reading.</p>",
        (None, None) => "<p class=\"note\">This run has no measured limits.</p>",
    }
}
