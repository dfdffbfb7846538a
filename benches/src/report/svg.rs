//! The SVG elements of the plots, and a frame with two axes.
//!
//! Colours are classes of the style sheet, which follows the reader's light or dark setting. `plotters` would write fixed
//! colours into the drawing.

use std::fmt::Write;

use super::scale::Scale;
use crate::format::escape;

/// Width of every plot. A phone shows it unscaled, so its text keeps the size of the style sheet.
pub const WIDTH: f64 = 360.0;

/// Alignment of a text at its point.
#[derive(Debug, Clone, Copy)]
pub enum Anchor {
    /// The text begins there.
    Start,
    /// The text is centred there.
    Middle,
    /// The text ends there.
    End,
}

/// Height of a plot with two axes, and the ends of the axes.
pub const HEIGHT: f64 = 310.0;
pub const LEFT: f64 = 48.0;
pub const RIGHT: f64 = WIDTH - 14.0;
pub const TOP: f64 = 26.0;
pub const BOTTOM: f64 = HEIGHT - 42.0;

/// A point on the page.
pub type Point = (f64, f64);

/// A drawing under construction. Its classes are defined in `style.css`.
#[derive(Debug)]
pub struct Svg {
    height: f64,
    body: String,
}

impl Svg {
    /// An empty drawing, [`WIDTH`] wide.
    pub fn new(height: f64) -> Self {
        Self { height, body: String::new() }
    }

    /// A straight line.
    pub fn line(&mut self, from: Point, to: Point, class: &str) {
        self.curve(&[from, to], class);
    }

    /// A line through all points.
    pub fn curve(&mut self, points: &[Point], class: &str) {
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

    /// A text on its base line.
    pub fn text(&mut self, (x, y): Point, anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
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

    /// The element, with a description for screen readers.
    pub fn finish(self, label: &str) -> String {
        let (label, height, body) = (escape(label), self.height, self.body);
        format!(
            r#"<svg role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {height:.0}" width="{WIDTH}" height="{height:.0}">
{body}</svg>"#
        )
    }
}

fn path(points: &[Point]) -> String {
    points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
}

/// A plot with two axes.
#[derive(Debug)]
pub struct Frame {
    /// The drawing.
    pub svg: Svg,
    /// The axis from left to right.
    pub x: Scale,
    /// The axis from bottom to top.
    pub y: Scale,
}

impl Frame {
    /// Position of a point, if both coordinates have one.
    pub fn at(&self, x: f64, y: f64) -> Option<Point> {
        self.x.at(x).zip(self.y.at(y))
    }

    /// Vertical grid lines with labels below, and the title of the axis under them.
    pub fn x_axis(&mut self, ticks: &[(f64, String)], title: &str) {
        let (bottom, top) = self.y.range();
        for (value, label) in ticks {
            let Some(x) = self.x.at(*value) else { continue };
            self.svg.line((x, top), (x, bottom), "grid");
            self.svg.text((x, bottom + 16.0), Anchor::Middle, "tick", label);
        }
        let (left, right) = self.x.range();
        self.svg.text(((left + right) / 2.0, bottom + 34.0), Anchor::Middle, "name", title);
    }

    /// Horizontal grid lines with labels at the left, and the title of the axis above them.
    pub fn y_axis(&mut self, label: fn(f64) -> String, title: &str) {
        let (left, right) = self.x.range();
        for (value, label) in self.y.labels(20.0, label) {
            let Some(y) = self.y.at(value) else { continue };
            self.svg.line((left, y), (right, y), "grid");
            self.svg.text((left - 6.0, y + 4.0), Anchor::End, "tick", &label);
        }
        self.svg.text((2.0, self.y.range().1 - 10.0), Anchor::Start, "name", title);
    }

    /// Draws a horizontal line across the plot.
    pub fn rule(&mut self, y: f64) {
        let Some(y) = self.y.at(y) else { return };
        let (left, right) = self.x.range();
        self.svg.line((left, y), (right, y), "even");
    }

    /// Shades the region below `y`, where sparse is slower.
    pub fn losing(&mut self, y: f64) {
        let Some(edge) = self.y.clamped(y) else { return };
        let ((left, right), (bottom, _)) = (self.x.range(), self.y.range());
        self.svg.area(&[(left, edge), (right, edge), (right, bottom), (left, bottom)], "lose");
    }
}
