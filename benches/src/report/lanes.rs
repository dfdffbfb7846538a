//! Dots on lanes: many small measurements over one axis, named at the left.

use super::scale::{Kind, Scale};
use super::svg::{Anchor, Svg, WIDTH};

const RIGHT: f64 = WIDTH - 12.0;
const TOP: f64 = 26.0;
/// Height of a lane.
const LANE: f64 = 18.0;

/// One measurement.
#[derive(Debug)]
pub struct Dot {
    /// Place on the axis.
    pub value: f64,
    /// Quartiles, drawn as a whisker.
    pub quartiles: Option<(f64, f64)>,
    /// Shape and colour, as `dot c0` or `ring c0`.
    pub class: String,
    /// Shown where the pointer rests.
    pub title: String,
}

/// Measurements with one name.
#[derive(Debug)]
pub struct Lane {
    /// Heading, drawn above the first lane that has it.
    pub group: String,
    /// Name.
    pub label: String,
    /// What was measured.
    pub dots: Vec<Dot>,
}

/// A plot of lanes.
#[derive(Debug)]
pub struct Lanes {
    /// Lowest and highest value; fitted to the dots with [`Lanes::fit`].
    pub scale: Scale,
    /// Title of the axis.
    pub axis: &'static str,
    /// How a tick is written.
    pub tick: fn(f64) -> String,
    /// A line across all lanes, with its name above.
    pub rule: Option<(f64, String)>,
    /// Shade the side below the rule, where the sparse path loses.
    pub losing: bool,
    /// From top to bottom.
    pub lanes: Vec<Lane>,
}

impl Lanes {
    /// Ends of the axis beside the names of these lanes, so that no name lies on the shaded side.
    pub fn range(lanes: &[Lane]) -> (f64, f64) {
        // Widths of the 12 px font; headings are bold.
        let width = |lane: &Lane| {
            (lane.label.chars().count() as f64 * 7.0).max(lane.group.chars().count() as f64 * 7.4)
        };
        let longest = lanes.iter().map(width).fold(0.0, f64::max);
        ((longest + 14.0).clamp(30.0, 130.0), RIGHT)
    }

    /// An axis that holds all dots of `lanes` and `also`.
    pub fn fit(kind: Kind, lanes: &[Lane], also: &[f64]) -> Scale {
        let dots = lanes.iter().flat_map(|lane| &lane.dots);
        let values = dots.flat_map(|dot| {
            let (low, high) = dot.quartiles.unwrap_or((dot.value, dot.value));
            [low, dot.value, high]
        });
        Scale::fit(kind, values.chain(also.iter().copied()), Self::range(lanes))
    }

    /// The drawing.
    pub fn draw(&self, label: &str) -> String {
        let groups =
            1 + self.lanes.windows(2).filter(|pair| pair[0].group != pair[1].group).count();
        let bottom = TOP + (self.lanes.len() + groups) as f64 * LANE + 6.0;
        let mut svg = Svg::new(bottom + 42.0);
        self.draw_axis(&mut svg, bottom);
        let mut y = TOP + LANE / 2.0 + 3.0;
        let mut group = None;
        for lane in &self.lanes {
            if group != Some(&lane.group) {
                svg.text((2.0, y + 4.0), Anchor::Start, "name", &lane.group);
                group = Some(&lane.group);
                y += LANE;
            }
            self.draw_lane(&mut svg, lane, y);
            y += LANE;
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

    fn draw_lane(&self, svg: &mut Svg, lane: &Lane, y: f64) {
        let (left, right) = self.scale.range();
        svg.line((left, y), (right, y), "grid");
        svg.text((left - 6.0, y + 4.0), Anchor::End, "tick", &lane.label);
        for dot in &lane.dots {
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
