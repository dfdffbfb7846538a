//! Results against the limits measured in the same run: FLOP/s in a roofline plot, and bytes per second when decoding.

use super::context::{self, Context};
use super::dot_plot::{Dot, DotPlot, DotRow};
use super::html::{self, Section};
use super::scale::{Kind, Scale};
use super::svg::{Anchor, BOTTOM, Frame, HEIGHT, LEFT, RIGHT, Svg, TOP};
use crate::format;
use crate::metrics::{self, bandwidth, intensity, kept_rate, peak};
use crate::record::{Limit, Measured, Run, Verb};

/// The roofline section: one plot per machine.
pub fn section(context: &Context) -> Section {
    let x = context.runs.iter().flat_map(points).map(|(x, ..)| x);
    let x = Scale::fit(Kind::Log, x, (LEFT, RIGHT));
    let plots: String =
        context.named().filter_map(|(name, run)| plot(context, &name, run, x)).collect();
    let mut body = String::new();
    if !plots.is_empty() {
        body = legend(context) + &html::grid(&plots);
    }
    let lead = "Forward products: FLOP/s on kept blocks against FLOPs per byte of weight, one plot per machine. The flat \
                line is Burn's fastest dense f32 product of the same run, the slope is the measured rate of reading \
                memory. Points above the slope read their weight from a cache; points of data types other than f32 may \
                be above the flat line.";
    Section { id: "roofline", title: "Roofline", lead: lead.into(), body }
}

/// Colours of the data types, and the two states of the caches.
fn legend(context: &Context) -> String {
    let mut entries: Vec<_> = context
        .dtypes
        .iter()
        .map(|dtype| (format!("dot {}", context.dtype_color(*dtype)), dtype.to_string()))
        .collect();
    entries.push(("dot ink".into(), "warm: the weight may be in a cache".into()));
    entries.push(("ring ink".into(), "cold: caches emptied before each call".into()));
    html::legend(&entries)
}

/// Class of a mark: filled if warm, a ring if cold, in the colour of the data type.
fn mark_class(context: &Context, result: &Measured) -> String {
    let shape = if result.problem.cold { "ring" } else { "dot" };
    format!("{shape} {}", context.dtype_color(result.problem.dtype))
}

/// Intensity, rate and result of every forward problem that has both.
fn points(run: &Run) -> impl Iterator<Item = (f64, f64, &Measured)> {
    let forward = run.results.iter().filter(|result| result.problem.verb == Verb::Forward);
    forward.filter_map(|result| Some((intensity(result)?, kept_rate(result)?, result)))
}

fn plot(context: &Context, name: &str, run: &Run, x: Scale) -> Option<String> {
    points(run).next()?;
    // The axis includes the ceiling even if no problem comes near it.
    let y = points(run).map(|(_, y, _)| y).chain(peak(&run.peaks, Limit::DenseF32));
    let y = Scale::fit(Kind::Log, y, (BOTTOM, TOP));
    let mut frame = Frame { svg: Svg::new(HEIGHT), x, y };
    let ticks = frame.x.labels(28.0, format::short_rate);
    frame.x_axis(&ticks, "FLOP per byte of weight");
    frame.y_axis(format::short_rate, "FLOP/s on kept blocks");
    for (x, y, result) in points(run) {
        let Some(point) = frame.at(x, y) else { continue };
        let title = format!("{}: {}", format::id(&result.problem), format::rate(y, "FLOP/s"));
        frame.svg.mark(point, 3.2, &mark_class(context, result), &title);
    }
    let remark = roof(&mut frame, peak(&run.peaks, Limit::DenseF32), peak(&run.peaks, Limit::Read));
    let label = format!("Roofline, {name}");
    Some(html::figure("roofline", name, &frame.svg.finish(&label), remark))
}

/// Draws the measured limits and returns a remark on missing ones.
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
            let text = format!("read {}", format::rate(read, "B/s"));
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
            let text = format!("dense f32 {}", format::rate(dense, "FLOP/s"));
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

/// Largest number of rows in a decoding step: one row per sequence of a small batch.
const DECODE_ROWS: usize = 16;

/// The section on decoding: a plot per machine and layer, with a row per data type and number of input rows.
pub fn decode_section(context: &Context) -> Section {
    let mut body = String::new();
    for (name, run) in context.named() {
        let decode = |result: &&Measured| {
            result.problem.verb == Verb::Forward
                && result.problem.rows <= DECODE_ROWS
                && bandwidth(result).is_some()
        };
        let layers = context::layers(run.results.iter().filter(decode));
        let plots: String =
            layers.iter().map(|(_, results)| decode_plot(context, &name, run, results)).collect();
        if !plots.is_empty() {
            body += &(html::heading(3, &name) + &html::grid(&plots));
        }
    }
    if !body.is_empty() {
        body.insert_str(0, &legend(context));
    }
    let lead = format!(
        "Forward products of at most {DECODE_ROWS} rows: bytes of packed weight and indices per second, with a dot per \
         block and sparsity. Cold calls read their weight from memory and should stay below the measured peak; warm \
         calls may read it from a cache."
    );
    Section { id: "decode", title: "Decode bandwidth", lead, body }
}

fn decode_plot(context: &Context, name: &str, run: &Run, results: &[&Measured]) -> String {
    let mut groups = metrics::group(results, |result| (result.problem.dtype, result.problem.rows));
    groups.sort_by_key(|(key, _)| *key);
    let dot = |result: &&&Measured| {
        let value = bandwidth(result)?;
        let title = format!("{}: {}", format::short(&result.problem), format::rate(value, "B/s"));
        Some(Dot { value, quartiles: None, class: mark_class(context, result), title })
    };
    let rows: Vec<DotRow> = groups
        .iter()
        .map(|((dtype, rows), results)| DotRow {
            group: dtype.to_string(),
            label: format!("M {rows}"),
            dots: results.iter().filter_map(dot).collect(),
        })
        .collect();
    let peak = peak(&run.peaks, Limit::Read);
    let plot = DotPlot {
        scale: DotPlot::fit(Kind::Linear, &rows, &[0.0, peak.unwrap_or(0.0)]),
        axis: "bytes of weight per second",
        tick: format::short_rate,
        rule: peak.map(|rate| (rate, format!("read {}", format::rate(rate, "B/s")))),
        losing: false,
        rows,
    };
    let layer = format::layer(&results[0].problem);
    html::figure("decode", &layer, &plot.draw(&format!("Decode bandwidth, {layer}, {name}")), "")
}
