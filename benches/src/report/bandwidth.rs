//! Decode: bytes of weight per second at few rows, against the measured rate of reading memory.

use super::Run;
use super::facts::{self, bandwidth, peak};
use super::html::{self, Section};
use super::lanes::{Dot, Lane, Lanes};
use super::roofline::{legend, mark_class};
use super::scale::Kind;
use super::shared::{self, Shared};
use super::words;
use crate::record::{Limit, Measured, Verb};

/// Most rows of a step of decoding: one row per sequence of a small batch.
const MOST_ROWS: usize = 16;

/// The section: a plot per machine and layer, a lane per data type and number of rows.
pub fn section(shared: &Shared) -> Section {
    let mut body = String::new();
    for (name, run) in shared.named() {
        let decode = |result: &&Measured| {
            result.problem.verb == Verb::Forward
                && result.problem.rows <= MOST_ROWS
                && bandwidth(result).is_some()
        };
        let layers = shared::layers(run.results.iter().filter(decode));
        let plots: String =
            layers.iter().map(|(_, results)| plot(shared, &name, run, results)).collect();
        if !plots.is_empty() {
            body += &(html::heading(3, &name) + &html::grid(&plots));
        }
    }
    if !body.is_empty() {
        body.insert_str(0, &legend(shared));
    }
    let lead = format!(
        "Forward products of at most {MOST_ROWS} rows: bytes of packed weight and indices over the time of a call, a \
         dot per block and sparsity. Cold calls read their weight from memory and should stay below the measured peak; \
         warm calls may read it from a cache."
    );
    Section { id: "decode", title: "Decode bandwidth", lead, body }
}

fn plot(shared: &Shared, name: &str, run: &Run, results: &[&Measured]) -> String {
    let mut groups =
        facts::group(results, |result| (result.problem.dtype.as_str(), result.problem.rows));
    let place = |dtype: &str| shared.dtypes().iter().position(|known| *known == dtype);
    groups.sort_by_key(|((dtype, rows), _)| (place(dtype), *rows));
    let dot = |result: &&&Measured| {
        let value = bandwidth(result)?;
        let title = format!("{}: {}", words::short(&result.problem), words::rate(value, "B/s"));
        Some(Dot { value, quartiles: None, class: mark_class(shared, result), title })
    };
    let lanes: Vec<Lane> = groups
        .iter()
        .map(|((dtype, rows), results)| Lane {
            group: dtype.to_string(),
            label: format!("M {rows}"),
            dots: results.iter().filter_map(dot).collect(),
        })
        .collect();
    let peak = peak(run, Limit::Read);
    let plot = Lanes {
        scale: Lanes::fit(Kind::Linear, &lanes, &[0.0, peak.unwrap_or(0.0)]),
        axis: "bytes of weight per second",
        tick: words::short_rate,
        rule: peak.map(|rate| (rate, format!("read {}", words::rate(rate, "B/s")))),
        losing: false,
        lanes,
    };
    let layer = words::layer(&results[0].problem);
    html::figure("decode", &layer, &plot.draw(&format!("Decode bandwidth, {layer}, {name}")), "")
}
