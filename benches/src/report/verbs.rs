//! Speed-up of gradients, the gated MLP and a training step.

use super::context::{self, Context};
use super::dot_plot::{Dot, DotPlot, DotRow};
use super::html::{self, Section};
use super::scale::{Kind, Scale};
use crate::format;
use crate::metrics::{self, speedup};
use crate::record::{Measured, Verb};

/// The section: a plot per machine, layer, block, data type and caches, with a row per verb and number of input rows.
pub fn section(context: &Context) -> Section {
    let mut body = String::new();
    for (name, run) in context.named() {
        let other =
            |result: &&Measured| result.problem.verb != Verb::Forward && speedup(result).is_some();
        let results: Vec<&Measured> = run.results.iter().filter(other).collect();
        if results.is_empty() {
            continue;
        }
        body += &html::heading(3, &name);
        let ends = ends(&results);
        for (_, results) in context::layers(results) {
            let layer = format::layer(&results[0].problem);
            let variants = metrics::group(results, |result| context::variant(&result.problem));
            let plots = variants.iter().map(|(variant, group)| {
                let label = format!("Speed-up of other verbs, {layer}, {variant}, {name}");
                html::figure("verbs", variant, &plot(context, group, ends).draw(&label), "")
            });
            body += &(html::heading(4, &layer) + &html::grid(&plots.collect::<String>()));
        }
    }
    if !body.is_empty() {
        let entries = context.sparsities.iter().map(|&sparsity| {
            (format!("dot {}", context.sparsity_color(sparsity)), format::percent(sparsity))
        });
        body = html::legend(&entries.collect::<Vec<_>>()) + &body;
    }
    let lead = "Dense time divided by sparse time of the other verbs, with a dot per sparsity and its quartiles. \
                Left of 1×, shaded, dense is faster. A training step is forward, both gradients and AdamW.";
    Section { id: "verbs", title: "Gradients, gated MLP, training step", lead: lead.into(), body }
}

/// Common ends of the axis for all plots of a machine. Ratio 1 is between them.
fn ends(results: &[&Measured]) -> (f64, f64) {
    let ratios = results.iter().flat_map(|result| result.speedup.all());
    Scale::fit(Kind::Log, ratios.chain([0.8, 1.25]), (0.0, 1.0)).domain()
}

fn rows(context: &Context, results: &[&Measured]) -> Vec<DotRow> {
    let mut groups = metrics::group(results, |result| (result.problem.verb, result.problem.rows));
    groups.sort_by_key(|(key, _)| *key);
    let dot = |result: &&&Measured| {
        let (ratio, problem) = (&result.speedup, &result.problem);
        Dot {
            value: ratio.median,
            quartiles: Some((ratio.low, ratio.high)),
            class: format!("dot {}", context.sparsity_color(problem.sparsity)),
            title: format!("{}: {}", format::short(problem), format::ratio_quartiles(ratio)),
        }
    };
    let row = |((verb, rows), results): &((Verb, usize), Vec<&&Measured>)| DotRow {
        group: format::verb(*verb).into(),
        label: format!("M {rows}"),
        dots: results.iter().map(dot).collect(),
    };
    groups.iter().map(row).collect()
}

fn plot(context: &Context, results: &[&Measured], ends: (f64, f64)) -> DotPlot {
    let rows = rows(context, results);
    DotPlot {
        scale: Scale::new(Kind::Log, ends, DotPlot::range(&rows)),
        axis: "speed-up over dense",
        tick: format::short_ratio,
        rule: Some((1.0, "as fast as dense".into())),
        losing: true,
        rows,
    }
}
