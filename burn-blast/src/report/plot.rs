//! SVG plots: curves over the steps of a run, and the kept blocks of a weight.
//!
//! Files are written under a temporary name in the same folder and renamed.
//!
//! ```
//! use burn_blast::report::plot::{Series, line_chart};
//!
//! let folder = tempfile::tempdir()?;
//! let loss = Series { name: "dense".into(), points: vec![(0.0, 5.5), (100.0, 3.1), (200.0, 2.4)] };
//! line_chart(&folder.path().join("loss.svg"), "Loss", "step", "nats per byte", &[loss])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt::Display;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn_blast_kernels::BlockPattern;
use burn_blast_kernels::draw::pattern_svg;
use plotters::prelude::*;

/// Size of a line chart in pixels.
const CHART_SIZE: (u32, u32) = (900, 540);

/// Empty border.
const MARGIN: usize = 12;

/// Colours that colour-blind readers can distinguish (Okabe and Ito).
const COLORS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// One curve of a [`line_chart`].
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points from left to right. A gap is drawn where a value is not finite.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// A curve of values by step.
    pub fn over_steps(name: &str, values: &[(usize, f64)]) -> Self {
        let points = values.iter().map(|(step, value)| (*step as f64, *value)).collect();
        Self { name: name.to_owned(), points }
    }
}

/// Why a plot could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    /// There is nothing to draw.
    #[error("the plot \"{title}\" has no finite point to draw: add one to at least one series")]
    Empty {
        /// Title of the plot.
        title: String,
    },
    /// The picture could not be drawn.
    #[error("the plot \"{title}\" could not be drawn: {reason}")]
    Draw {
        /// Title of the plot.
        title: String,
        /// What the drawing library says.
        reason: String,
    },
    /// The file could not be written.
    #[error("cannot write the plot {}: {cause}; check that the folder exists and can be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
}

/// Draws curves over a common x axis into an SVG file.
///
/// # Errors
/// [`PlotError::Empty`] without a finite point, [`PlotError::Write`] if the file cannot be written.
pub fn line_chart(
    path: &Path,
    title: &str,
    x_label: &str,
    y_label: &str,
    series: &[Series],
) -> Result<(), PlotError> {
    let empty = || PlotError::Empty { title: title.to_owned() };
    let (x_range, y_range) = ranges(series).ok_or_else(empty)?;

    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, CHART_SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(|error| draw_error(title, error))?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 24))
            .margin(MARGIN as u32)
            // Half of the last label is at the right of the axis.
            .margin_right(4 * MARGIN as u32)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(x_range, y_range)
            .map_err(|error| draw_error(title, error))?;
        chart
            .configure_mesh()
            .x_desc(x_label)
            .y_desc(y_label)
            .axis_desc_style(("sans-serif", 18))
            .label_style(("sans-serif", 16))
            .x_label_formatter(&|x| {
                // Without what the sum of steps leaves at the end.
                let text = format!("{x:.6}");
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            })
            .light_line_style(TRANSPARENT)
            .draw()
            .map_err(|error| draw_error(title, error))?;
        for (index, series) in series.iter().enumerate() {
            let style = COLORS[index % COLORS.len()].stroke_width(2);
            let mut name = Some(series.name.as_str());
            for run in series.points.split(|point| !is_finite(point)).filter(|run| !run.is_empty())
            {
                // A line through a single point has no length.
                let point = if run.len() == 1 { 4 } else { 0 };
                let line = LineSeries::new(run.iter().copied(), style.filled()).point_size(point);
                let drawn = chart.draw_series(line).map_err(|error| draw_error(title, error))?;
                if let Some(name) = name.take() {
                    drawn
                        .label(name)
                        .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
                }
            }
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .label_font(("sans-serif", 16))
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.4))
            .draw()
            .map_err(|error| draw_error(title, error))?;
        area.present().map_err(|error| draw_error(title, error))?;
    }
    write(path, &svg)
}

/// Draws the kept blocks of a weight into an SVG file: rows are the weight's inputs, columns its outputs.
///
/// # Errors
/// [`PlotError::Write`] if the file cannot be written.
pub fn pattern_map(path: &Path, title: &str, pattern: &BlockPattern) -> Result<(), PlotError> {
    let svg = pattern_svg(title, pattern).map_err(|error| draw_error(title, error))?;
    write(path, &svg)
}

fn is_finite(point: &(f64, f64)) -> bool {
    point.0.is_finite() && point.1.is_finite()
}

/// Ranges of the two axes, if there is a finite point.
fn ranges(series: &[Series]) -> Option<(Range<f64>, Range<f64>)> {
    let points =
        || series.iter().flat_map(|series| &series.points).filter(|point| is_finite(point));
    Some((range(points().map(|point| point.0))?, padded(range(points().map(|point| point.1))?)))
}

/// Smallest range that holds all values, never an empty one.
fn range(values: impl Iterator<Item = f64>) -> Option<Range<f64>> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    match low.partial_cmp(&high)? {
        std::cmp::Ordering::Greater => None,
        std::cmp::Ordering::Equal => {
            let around = low.abs().max(1.0) * 0.5;
            Some(low - around..high + around)
        }
        std::cmp::Ordering::Less => Some(low..high),
    }
}

/// A little room above and below.
fn padded(range: Range<f64>) -> Range<f64> {
    let room = 0.04 * (range.end - range.start);
    range.start - room..range.end + room
}

fn draw_error(title: &str, error: impl Display) -> PlotError {
    PlotError::Draw { title: title.to_owned(), reason: error.to_string() }
}

fn write(path: &Path, svg: &str) -> Result<(), PlotError> {
    burn_blast_checkpoint::atomic::replace_file(path, svg.as_bytes())
        .map_err(|cause| PlotError::Write { path: path.to_path_buf(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: &[(f64, f64)]) -> Series {
        Series { name: "a < b".to_owned(), points: points.to_vec() }
    }

    #[test]
    fn a_chart_holds_title_labels_and_legend() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chart.svg");
        let curve = series(&[(0.0, 2.0), (1.0, f64::NAN), (2.0, 1.0), (3.0, 0.5)]);
        line_chart(&path, "Loss curve", "step", "nats", &[curve, series(&[])]).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["Loss curve", "step", "nats", "a &lt; b"] {
            assert!(svg.contains(text), "no {text} in {svg}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn steps_are_whole_numbers_and_the_last_one_has_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chart.svg");
        let curve = series(&[(0.0, 2.0), (600.0, 1.0), (1200.0, 0.5)]);
        line_chart(&path, "Loss", "step", "nats", &[curve]).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        let before = svg.split("\n1200\n").next().unwrap();
        assert!(before.len() < svg.len() && !svg.contains("1200.0"), "{svg}");
        let x = before.rsplit("<text x=\"").next().unwrap().split('"').next().unwrap();
        let x: u32 = x.parse().unwrap();
        assert!(x + 4 * MARGIN as u32 <= CHART_SIZE.0, "{x}");
    }

    #[test]
    fn a_single_point_is_a_dot() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.svg");
        let dots = |points: &[(f64, f64)]| {
            line_chart(&path, "Flat", "x", "y", &[series(points)]).unwrap();
            std::fs::read_to_string(&path).unwrap().matches("r=\"4\"").count()
        };
        assert_eq!(dots(&[(5.0, 0.0)]), 1);
        assert_eq!(dots(&[(5.0, 0.0), (6.0, 0.0)]), 0);
    }

    #[test]
    fn a_chart_without_points_or_without_a_folder_is_refused() {
        let chart = |path: &str, y| {
            line_chart(Path::new(path), "Loss", "x", "y", &[series(&[(0.0, y)])]).unwrap_err()
        };
        let error = chart("a.svg", f64::NAN);
        assert!(matches!(&error, PlotError::Empty { title } if title == "Loss"), "{error}");
        let error = chart("no-such-folder/a.svg", 1.0);
        let PlotError::Write { path, .. } = &error else { panic!("{error}") };
        assert_eq!(path, Path::new("no-such-folder/a.svg"));
        assert!(error.to_string().contains("check that the folder exists"), "{error}");
    }
}
