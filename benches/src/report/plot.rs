//! SVG plots with two logarithmic axes.
//!
//! Colours are classes of the style sheet, which follows the reader's light or dark setting. `plotters` would write fixed
//! colours into the drawing.

use std::fmt::Write;

use crate::format::escape;
use crate::metrics::positive;

/// Width of every plot. A phone shows it unscaled, so its text keeps the size of the style sheet.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 310.0;

/// Ends of the axes.
pub const LEFT: f64 = 48.0;
pub const RIGHT: f64 = WIDTH - 14.0;
const TOP: f64 = 26.0;
pub const BOTTOM: f64 = HEIGHT - 42.0;

/// A point on the page.
pub type Point = (f64, f64);

/// A logarithmic map from a value to a position on the page.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Lowest and highest value on the axis.
    pub domain: (f64, f64),
    /// The ends on the page, in the order of the domain.
    range: (f64, f64),
}

impl Scale {
    /// An axis from left to right that covers all usable `values` with a margin on both sides.
    pub fn horizontal(values: impl IntoIterator<Item = f64>) -> Self {
        Self::fit(values, (LEFT, RIGHT))
    }

    /// An axis from bottom to top that covers all usable `values` with a margin on both sides.
    pub fn vertical(values: impl IntoIterator<Item = f64>) -> Self {
        Self::fit(values, (BOTTOM, TOP))
    }

    fn fit(values: impl IntoIterator<Item = f64>, range: (f64, f64)) -> Self {
        let (low, high) = values
            .into_iter()
            .filter_map(positive)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let margin = if low < high { (high / low).powf(0.06) } else { 1.5 };
        let domain = if low <= high { (low / margin, high * margin) } else { (1.0, 2.0) };
        Self { domain, range }
    }

    /// Position of a value; `None` if it has no position on this axis, so that no `NaN` reaches a drawing.
    pub fn at(&self, value: f64) -> Option<f64> {
        let (low, high) = (self.domain.0.ln(), self.domain.1.ln());
        let place =
            self.range.0 + (value.ln() - low) / (high - low) * (self.range.1 - self.range.0);
        place.is_finite().then_some(place)
    }

    /// Position of a value, moved to the nearer end if it is outside.
    pub fn clamped(&self, value: f64) -> Option<f64> {
        let (low, high) = (self.range.0.min(self.range.1), self.range.0.max(self.range.1));
        self.at(value).map(|place| place.clamp(low, high))
    }

    /// Round values at least `gap` apart on the page, with their labels.
    pub fn labels(&self, gap: f64, label: fn(f64) -> String) -> Vec<(f64, String)> {
        self.ticks(gap).into_iter().map(|value| (value, label(value))).collect()
    }

    fn linear_ticks(&self, gap: f64) -> Vec<f64> {
        let (low, high) = self.domain;
        let least = (high - low) * gap / (self.range.1 - self.range.0).abs();
        let decade = 10f64.powf(least.log10().floor());
        let steps = [1.0, 2.0, 5.0].map(|m| m * decade);
        let step = steps.into_iter().find(|step| *step >= least).unwrap_or(10.0 * decade);
        let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
        (first..=last).map(|k| k as f64 * step).collect()
    }

    fn ticks(&self, gap: f64) -> Vec<f64> {
        let (low, high) = self.domain;
        // Below a factor of three, linear ticks are almost evenly spaced, and their values are rounder.
        if high / low < 3.0 {
            return self.linear_ticks(gap);
        }
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let pixels_per_decade = (self.range.1 - self.range.0).abs() / (high / low).log10();
        // The smallest ratio between neighbours decides whether a set of ticks fits.
        let sets: [(&[f64], f64); 4] = [
            (&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0], 1.2),
            (&[1.0, 2.0, 3.0, 5.0], 1.5),
            (&[1.0, 2.0, 5.0], 2.0),
            (&[1.0, 3.0], 3.0),
        ];
        let fits = |ratio: f64| pixels_per_decade * ratio.log10() >= gap;
        let set = sets.iter().find(|(_, ratio)| fits(*ratio)).map_or(&[1.0][..], |(set, _)| set);
        let all = (first..=last).flat_map(|e| set.iter().map(move |m| m * 10f64.powi(e)));
        all.filter(|value| (low..=high).contains(value)).collect()
    }
}

/// A plot under construction. Its classes are defined in `style.css`.
#[derive(Debug)]
pub struct Plot {
    /// The axis from left to right.
    pub x: Scale,
    /// The axis from bottom to top.
    pub y: Scale,
    body: String,
}

impl Plot {
    /// A plot without content.
    pub fn new(x: Scale, y: Scale) -> Self {
        Self { x, y, body: String::new() }
    }

    /// Position of a point, if both coordinates have one.
    pub fn at(&self, x: f64, y: f64) -> Option<Point> {
        self.x.at(x).zip(self.y.at(y))
    }

    /// Vertical grid lines with labels below, and the title of the axis under them.
    pub fn x_axis(&mut self, ticks: &[(f64, String)], title: &str) {
        for (value, label) in ticks {
            let Some(x) = self.x.at(*value) else { continue };
            self.line(&[(x, TOP), (x, BOTTOM)], "grid");
            self.text((x, BOTTOM + 16.0), "middle", "tick", label);
        }
        self.text(((LEFT + RIGHT) / 2.0, BOTTOM + 34.0), "middle", "name", title);
    }

    /// Horizontal grid lines with labels at the left, and the title of the axis above them.
    pub fn y_axis(&mut self, label: fn(f64) -> String, title: &str) {
        for (value, label) in self.y.labels(20.0, label) {
            self.rule(value, "grid");
            let Some(y) = self.y.at(value) else { continue };
            self.text((LEFT - 6.0, y + 4.0), "end", "tick", &label);
        }
        self.text((2.0, TOP - 10.0), "start", "name", title);
    }

    /// A horizontal line across the plot.
    pub fn rule(&mut self, y: f64, class: &str) {
        if let Some(y) = self.y.at(y) {
            self.line(&[(LEFT, y), (RIGHT, y)], class);
        }
    }

    /// A line through all points.
    pub fn line(&mut self, points: &[Point], class: &str) {
        let _ = writeln!(self.body, r#"<polyline class="{class}" points="{}"/>"#, path(points));
    }

    /// The area inside all points.
    pub fn area(&mut self, points: &[Point], class: &str) {
        let _ = writeln!(self.body, r#"<polygon class="{class}" points="{}"/>"#, path(points));
    }

    /// A round mark with a text shown under the pointer.
    pub fn mark(&mut self, (x, y): Point, radius: f64, class: &str, title: &str) {
        let title = escape(title);
        let _ = writeln!(
            self.body,
            r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{radius}"><title>{title}</title></circle>"#
        );
    }

    /// A text on its base line; `anchor` is the part at the point: `start`, `middle` or `end`.
    pub fn text(&mut self, (x, y): Point, anchor: &str, class: &str, text: &str) {
        let text = escape(text);
        let _ = writeln!(
            self.body,
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
        );
    }

    /// A text above a line from left to right, rotated with the line, that ends at the end of the line.
    pub fn text_up_to(&mut self, from: Point, to: Point, class: &str, text: &str) {
        let (x, y) = to;
        let angle = (to.1 - from.1).atan2(to.0 - from.0).to_degrees();
        let text = escape(text);
        let _ = writeln!(
            self.body,
            r#"<text class="{class}" transform="translate({x:.1} {y:.1}) rotate({angle:.1})" x="-8" y="-6" text-anchor="end">{text}</text>"#
        );
    }

    /// The plot as a figure of the page, with text `below` it. `kind` is an attribute of the element; `label` describes
    /// the plot to screen readers.
    pub fn figure(self, kind: &str, heading: &str, label: &str, below: &str) -> String {
        let (heading, label, body) = (escape(heading), escape(label), self.body);
        format!(
            r#"<figure class="plot" data-plot="{kind}"><figcaption>{heading}</figcaption>
<svg role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">
{body}</svg>
{below}</figure>
"#
        )
    }
}

fn path(points: &[Point]) -> String {
    points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(low: f64, high: f64) -> Scale {
        Scale { domain: (low, high), range: (0.0, 200.0) }
    }

    #[test]
    fn the_geometric_mean_is_in_the_middle() {
        assert!((scale(1.0, 100.0).at(10.0).unwrap() - 100.0).abs() < 1e-9);
    }

    #[test]
    fn a_value_without_a_position_gives_none() {
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(scale(1.0, 100.0).at(value), None, "{value}");
        }
    }

    #[test]
    fn unusable_values_still_give_a_scale() {
        for values in [vec![], vec![f64::NAN], vec![3.0], vec![0.0]] {
            let scale = Scale::horizontal(values.clone());
            assert!(scale.at(2.0).is_some(), "{values:?}");
            assert!(!scale.ticks(30.0).is_empty(), "{values:?}");
        }
    }

    #[test]
    fn ticks_are_round_and_keep_their_distance() {
        assert_eq!(scale(0.4, 30.0).ticks(25.0), [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(scale(36.0, 99.0).ticks(60.0), [40.0, 60.0, 80.0]);
    }
}
