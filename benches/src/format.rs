//! Numbers and names as text, for tables and pages.

use crate::record::{Machine, Problem, Quartiles, Verb};

/// Stands for a missing number.
pub const NOTHING: &str = "–";

/// Text that is safe between tags and inside quoted attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Control characters are not allowed in HTML.
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Three significant figures.
pub fn figures(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => NOTHING.into(),
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.0995 || size == 0.0 => format!("{value:.2}"),
        size if size >= 0.001 => format!("{value:.4}"),
        _ => format!("{value:.1e}"),
    }
}

/// A round number without trailing zeros, for ticks.
pub fn round(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').into()
}

/// A rate with a prefix, such as `1.25 TFLOP/s`.
pub fn rate(value: f64, unit: &str) -> String {
    let (scaled, prefix) = prefixed(value);
    format!("{} {prefix}{unit}", figures(scaled))
}

/// A tick of a rate, such as `20 G`.
pub fn short_rate(value: f64) -> String {
    let (scaled, prefix) = prefixed(value);
    format!("{} {prefix}", round(scaled)).trim_end().into()
}

fn prefixed(value: f64) -> (f64, &'static str) {
    let prefixes = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    // Slightly below the power, since 1e12 may arrive as 999999999999.9999.
    let prefix = prefixes.into_iter().find(|(size, _)| value.abs() >= size * (1.0 - 1e-9));
    prefix.map_or((value, ""), |(size, prefix)| (value / size, prefix))
}

/// A time with its unit.
pub fn seconds(value: f64) -> String {
    let (scaled, unit) = time_unit(value);
    format!("{} {unit}", figures(scaled))
}

/// Median and quartiles of a time, in the unit of the median.
pub fn seconds_quartiles(spread: &Quartiles) -> String {
    let (scaled, unit) = time_unit(spread.median);
    let scale = scaled / spread.median;
    format!(
        "{} {unit} ({}–{})",
        figures(scaled),
        figures(spread.low * scale),
        figures(spread.high * scale)
    )
}

fn time_unit(value: f64) -> (f64, &'static str) {
    match value.abs() {
        size if size >= 1.0 - 1e-9 => (value, "s"),
        size if size >= 1e-3 - 1e-12 => (value * 1e3, "ms"),
        _ => (value * 1e6, "µs"),
    }
}

/// A ratio, such as `2.10×`.
pub fn ratio(value: f64) -> String {
    if value.is_finite() { format!("{}×", figures(value)) } else { NOTHING.into() }
}

/// A tick of a ratio.
pub fn short_ratio(value: f64) -> String {
    format!("{}×", round(value))
}

/// Median and quartiles of a ratio.
pub fn ratio_quartiles(spread: &Quartiles) -> String {
    format!("{} ({}–{})", ratio(spread.median), figures(spread.low), figures(spread.high))
}

/// A fraction in percent with at most one decimal.
pub fn percent(fraction: f64) -> String {
    if !fraction.is_finite() {
        return NOTHING.into();
    }
    let text = format!("{:.1}", fraction * 100.0);
    format!("{} %", text.trim_end_matches(".0"))
}

/// `1 problem`, `2 problems`.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Name of a verb.
pub fn verb(verb: Verb) -> &'static str {
    match verb {
        Verb::Forward => "forward",
        Verb::InputGradient => "input gradient",
        Verb::WeightGradient => "weight gradient",
        Verb::GatedMlp => "gated MLP",
        Verb::Step => "training step",
    }
}

/// State of the caches before a call, in one word.
pub fn caches(cold: bool) -> &'static str {
    if cold { "cold" } else { "warm" }
}

/// Layer and size.
pub fn layer(problem: &Problem) -> String {
    format!("{}, {} × {}", problem.model, problem.d_input, problem.d_output)
}

/// Every property of a problem, in one line.
pub fn id(problem: &Problem) -> String {
    let Problem { rows, block, sparsity, dtype, cold, .. } = problem;
    let (layer, verb, caches) = (layer(problem), verb(problem.verb), caches(*cold));
    format!("{layer}, {verb}, M {rows}, block {block}, {}, {dtype}, {caches}", percent(*sparsity))
}

/// The properties of a problem that vary inside a plot.
pub fn short(problem: &Problem) -> String {
    let Problem { rows, block, sparsity, .. } = problem;
    format!("M {rows}, block {block}, {}", percent(*sparsity))
}

/// Device, backend and features.
pub fn machine(machine: &Machine) -> String {
    let features = machine.features.iter().map(|f| format!(" + {f}")).collect::<String>();
    format!("{}, {}{features}", machine.device, machine.backend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_figures() {
        let cases = [
            (1234.5, "1234"),
            (99.99, "100"),
            (12.345, "12.3"),
            (9.999, "10.0"),
            (0.5, "0.50"),
            (0.0, "0.00"),
        ];
        for (value, text) in cases {
            assert_eq!(figures(value), text, "{value}");
        }
        assert_eq!(figures(f64::NAN), NOTHING);
        assert_eq!(figures(f64::INFINITY), NOTHING);
    }

    #[test]
    fn units_follow_the_size() {
        assert_eq!(rate(1.25e12, "FLOP/s"), "1.25 TFLOP/s");
        assert_eq!(short_rate(2e10), "20 G");
        assert_eq!(seconds(0.0123), "12.3 ms");
        assert_eq!(
            seconds_quartiles(&Quartiles { low: 9.5e-4, median: 1e-3, high: 2e-3 }),
            "1.00 ms (0.95–2.00)"
        );
        assert_eq!(seconds(5e-5), "50.0 µs");
        assert_eq!(percent(0.975), "97.5 %");
        assert_eq!(percent(0.9), "90 %");
    }

    #[test]
    fn markup_and_control_characters_are_escaped() {
        assert_eq!(escape("<b>&\"x\"'\u{0}"), "&lt;b&gt;&amp;&quot;x&quot;&#39; ");
    }
}
