//! Speed-up of what is not a forward product: gradients, the gated MLP, a whole training step.

use super::facts::{self, speedup};
use super::html::{self, Section};
use super::lanes::{Dot, Lane, Lanes};
use super::scale::{Kind, Scale};
use super::shared::{self, Shared};
use super::words;
use crate::record::{Measured, Spread, Verb};

/// The section: a plot per machine, layer, block, data type and caches; a lane per verb and number of rows.
pub fn section(shared: &Shared) -> Section {
    let mut body = String::new();
    for (name, run) in shared.named() {
        let other =
            |result: &&Measured| result.problem.verb != Verb::Forward && speedup(result).is_some();
        let results: Vec<&Measured> = run.results.iter().filter(other).collect();
        if results.is_empty() {
            continue;
        }
        body += &html::heading(3, &name);
        let ends = ends(&results);
        for (_, results) in shared::layers(results) {
            let layer = words::layer(&results[0].problem);
            let variants = facts::group(results, |result| shared::variant(&result.problem));
            let plots = variants.iter().map(|(variant, group)| {
                let label = format!("Speed-up of other verbs, {layer}, {variant}, {name}");
                html::figure("verbs", variant, &plot(shared, group, ends).draw(&label), "")
            });
            body += &(html::heading(4, &layer) + &html::grid(&plots.collect::<String>()));
        }
    }
    if !body.is_empty() {
        let entry = |sparsity: &f64| {
            (format!("dot {}", shared.sparsity_color(*sparsity)), words::percent(*sparsity))
        };
        body.insert_str(
            0,
            &html::legend(&shared.sparsities().iter().map(entry).collect::<Vec<_>>()),
        );
    }
    let lead = "Time of dense over time of block-sparse for the other verbs, a dot per sparsity with its quartiles. \
                Left of 1×, shaded, dense is faster. A training step is forward, both gradients and AdamW.";
    Section { id: "verbs", title: "Gradients, gated MLP, training step", lead: lead.into(), body }
}

/// Ends of one axis for a machine, so that its plots can be compared by eye. Ratio 1 lies between them.
fn ends(results: &[&Measured]) -> (f64, f64) {
    let ratios = results.iter().flat_map(|result| {
        let Spread { low, median, high } = result.speedup;
        [low, median, high]
    });
    Scale::fit(Kind::Log, ratios.chain([0.8, 1.25]), (0.0, 1.0)).domain()
}

fn lanes(shared: &Shared, results: &[&Measured]) -> Vec<Lane> {
    let mut groups = facts::group(results, |result| (result.problem.verb, result.problem.rows));
    groups.sort_by_key(|(key, _)| *key);
    let dot = |result: &&&Measured| {
        let (ratio, problem) = (&result.speedup, &result.problem);
        Dot {
            value: ratio.median,
            quartiles: Some((ratio.low, ratio.high)),
            class: format!("dot {}", shared.sparsity_color(problem.sparsity)),
            title: format!("{}: {}", words::short(problem), words::ratio_spread(ratio)),
        }
    };
    let lane = |((verb, rows), results): &((Verb, usize), Vec<&&Measured>)| Lane {
        group: words::verb(*verb).into(),
        label: format!("M {rows}"),
        dots: results.iter().map(dot).collect(),
    };
    groups.iter().map(lane).collect()
}

fn plot(shared: &Shared, results: &[&Measured], ends: (f64, f64)) -> Lanes {
    let lanes = lanes(shared, results);
    Lanes {
        scale: Scale::new(Kind::Log, ends, Lanes::range(&lanes)),
        axis: "speed-up over dense",
        tick: |value| format!("{}×", words::round(value)),
        rule: Some((1.0, "as fast as dense".into())),
        losing: true,
        lanes,
    }
}
