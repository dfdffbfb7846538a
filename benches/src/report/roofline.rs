//! Results against the limits measured in the same run, in a roofline plot.

use super::context::Context;
use super::html::{self, Section};
use super::plot::{Plot, RIGHT, Scale};
use crate::format;
use crate::metrics::{intensity, kept_rate, peak};
use crate::record::{Limit, Measured, Run, Verb};

/// The roofline section: one plot per machine.
pub fn section(context: &Context) -> Section {
    let x = Scale::horizontal(context.runs.iter().flat_map(points).map(|(x, ..)| x));
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

/// Intensity, rate and result of every forward problem that has both.
fn points(run: &Run) -> impl Iterator<Item = (f64, f64, &Measured)> {
    let forward = run.results.iter().filter(|result| result.problem.verb == Verb::Forward);
    forward.filter_map(|result| Some((intensity(result)?, kept_rate(result)?, result)))
}

fn plot(context: &Context, name: &str, run: &Run, x: Scale) -> Option<String> {
    points(run).next()?;
    // The axis includes the ceiling even if no problem comes near it.
    let y = points(run).map(|(_, y, _)| y).chain(peak(&run.peaks, Limit::DenseF32));
    let mut plot = Plot::new(x, Scale::vertical(y));
    let ticks = plot.x.labels(28.0, format::short_rate);
    plot.x_axis(&ticks, "FLOP per byte of weight");
    plot.y_axis(format::short_rate, "FLOP/s on kept blocks");
    for (x, y, result) in points(run) {
        let Some(point) = plot.at(x, y) else { continue };
        let title = format!("{}: {}", format::id(&result.problem), format::rate(y, "FLOP/s"));
        let shape = if result.problem.cold { "ring" } else { "dot" };
        let color = context.dtype_color(result.problem.dtype);
        plot.mark(point, 3.2, &format!("{shape} {color}"), &title);
    }
    roof(&mut plot, peak(&run.peaks, Limit::DenseF32), peak(&run.peaks, Limit::Read));
    Some(plot.figure("roofline", name, &format!("Roofline, {name}"), ""))
}

/// Draws the limits that were measured.
fn roof(plot: &mut Plot, dense: Option<f64>, read: Option<f64>) {
    let ((first, last), (low, high)) = (plot.x.domain, plot.y.domain);
    let ridge = dense.zip(read).map(|(dense, read)| dense / read);
    if let Some(read) = read {
        let (from, to) =
            (first.max(low / read), last.min(high / read).min(ridge.unwrap_or(f64::INFINITY)));
        if let Some((start, end)) =
            plot.at(from, from * read).zip(plot.at(to, to * read)).filter(|_| from < to)
        {
            plot.line(&[start, end], "even");
            let text = format!("read {}", format::rate(read, "B/s"));
            plot.text_up_to(start, end, "value", &text);
        }
    }
    if let Some(dense) = dense {
        let from = ridge.unwrap_or(first).max(first);
        if let Some((start, end)) =
            plot.at(from, dense).zip(plot.at(last, dense)).filter(|_| from < last)
        {
            plot.line(&[start, end], "even");
        }
        if let Some((_, y)) = plot.at(last, dense) {
            let text = format!("dense f32 {}", format::rate(dense, "FLOP/s"));
            plot.text((RIGHT - 2.0, y - 6.0), "end", "value", &text);
        }
    }
}
