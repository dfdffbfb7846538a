//! Dot plots: rows of measurements over one axis, with the names of the rows at the left.

use super::scale::{Kind, Scale};
use super::svg::{Anchor, Svg, WIDTH};

const RIGHT: f64 = WIDTH - 12.0;
const TOP: f64 = 26.0;
/// Height of a row.
const ROW: f64 = 18.0;

/// One measurement.
#[derive(Debug)]
pub struct Dot {
    /// Value on the axis.
    pub value: f64,
    /// Quartiles, drawn as a whisker.
    pub quartiles: Option<(f64, f64)>,
    /// Shape and colour, such as `dot c0` or `ring c0`.
    pub class: String,
    /// Shown under the pointer.
    pub title: String,
}

/// A row of measurements.
#[derive(Debug)]
pub struct DotRow {
    /// Heading, drawn above the first row of the group.
    pub group: String,
    /// Name.
    pub label: String,
    /// The measurements.
    pub dots: Vec<Dot>,
}

/// A dot plot.
#[derive(Debug)]
pub struct DotPlot {
    /// The axis, fitted to the dots with [`DotPlot::fit`].
    pub scale: Scale,
    /// Title of the axis.
    pub axis: &'static str,
    /// Text of a tick.
    pub tick: fn(f64) -> String,
    /// A vertical line across all rows, with its name above.
    pub rule: Option<(f64, String)>,
    /// Whether the side below the rule, where sparse is slower, is shaded.
    pub losing: bool,
    /// From top to bottom.
    pub rows: Vec<DotRow>,
}

impl DotPlot {
    /// Ends of the axis beside the names of these rows, so that no name is on the shaded side.
    pub fn range(rows: &[DotRow]) -> (f64, f64) {
        // Widths of the 12 px font; headings are bold.
        let width = |row: &DotRow| {
            (row.label.chars().count() as f64 * 7.0).max(row.group.chars().count() as f64 * 7.4)
        };
        let longest = rows.iter().map(width).fold(0.0, f64::max);
        ((longest + 14.0).clamp(30.0, 130.0), RIGHT)
    }

    /// An axis that covers all dots of `rows` and the values of `also`.
    pub fn fit(kind: Kind, rows: &[DotRow], also: &[f64]) -> Scale {
        let dots = rows.iter().flat_map(|row| &row.dots);
        let values = dots.flat_map(|dot| {
            let (low, high) = dot.quartiles.unwrap_or((dot.value, dot.value));
            [low, dot.value, high]
        });
        Scale::fit(kind, values.chain(also.iter().copied()), Self::range(rows))
    }

    /// The drawing.
    pub fn draw(&self, label: &str) -> String {
        let groups = 1 + self.rows.windows(2).filter(|pair| pair[0].group != pair[1].group).count();
        let bottom = TOP + (self.rows.len() + groups) as f64 * ROW + 6.0;
        let mut svg = Svg::new(bottom + 42.0);
        self.draw_axis(&mut svg, bottom);
        let mut y = TOP + ROW / 2.0 + 3.0;
        let mut group = None;
        for row in &self.rows {
            if group != Some(&row.group) {
                svg.text((2.0, y + 4.0), Anchor::Start, "name", &row.group);
                group = Some(&row.group);
                y += ROW;
            }
            self.draw_row(&mut svg, row, y);
            y += ROW;
        }
        svg.finish(label)
    }

    fn draw_axis(&self, svg: &mut Svg, bottom: f64) {
        let (left, right) = self.scale.range();
        let rule =
            self.rule.as_ref().and_then(|(value, text)| Some((self.scale.clamped(*value)?, text)));
        if let Some((x, _)) = rule.filter(|_| self.losing) {
            svg.area(&[(left, TOP), (x, TOP), (x, bottom), (left, bottom)], "lose");
        }
        for value in self.scale.ticks(44.0) {
            let Some(x) = self.scale.at(value) else { continue };
            svg.line((x, TOP), (x, bottom), "grid");
            svg.text((x, bottom + 16.0), Anchor::Middle, "tick", &(self.tick)(value));
        }
        svg.text(((left + right) / 2.0, bottom + 34.0), Anchor::Middle, "name", self.axis);
        if let Some((x, text)) = rule {
            svg.line((x, TOP - 4.0), (x, bottom), "even");
            let half = text.chars().count() as f64 * 3.4;
            svg.text(
                (x.min(WIDTH - 4.0 - half).max(half + 4.0), TOP - 9.0),
                Anchor::Middle,
                "value",
                text,
            );
        }
    }

    fn draw_row(&self, svg: &mut Svg, row: &DotRow, y: f64) {
        let (left, right) = self.scale.range();
        svg.line((left, y), (right, y), "grid");
        svg.text((left - 6.0, y + 4.0), Anchor::End, "tick", &row.label);
        for dot in &row.dots {
            let Some(x) = self.scale.at(dot.value) else { continue };
            let whisker = dot
                .quartiles
                .and_then(|(low, high)| self.scale.clamped(low).zip(self.scale.clamped(high)));
            if let Some((low, high)) = whisker {
                let color = dot.class.split_once(' ').map_or("", |(_, color)| color);
                svg.line((low, y), (high, y), &format!("whisker {color}"));
            }
            svg.mark((x, y), 3.6, &dot.class, &dot.title);
        }
    }
}
