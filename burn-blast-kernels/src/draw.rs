//! Pictures of patterns.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::BlockPattern;

/// Largest side of a picture in pixels, unless a block would be smaller than a pixel.
const MAP_SIDE: usize = 900;

/// Largest side of a block in pixels.
const LARGEST_BLOCK: usize = 24;

/// Height of the title in pixels.
const TITLE_HEIGHT: usize = 36;

/// Least width in pixels, so that the title fits.
const NARROWEST_MAP: usize = 360;

/// Width of the empty border in pixels.
const MARGIN: usize = 12;

/// Color of a kept block: blue of Okabe and Ito's palette.
const KEPT: RGBColor = RGBColor(0, 114, 178);

/// A picture could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("the pattern could not be drawn: {reason}")]
pub struct DrawError {
    /// Message of the drawing library.
    reason: String,
}

/// Draws the kept blocks of a weight as SVG text. Rows are inputs of the weight, columns are outputs.
///
/// # Errors
/// If the drawing library fails.
pub fn pattern_svg(title: &str, pattern: &BlockPattern) -> Result<String, DrawError> {
    let (rows, columns) = (pattern.block_rows(), pattern.block_cols());
    let side = (MAP_SIDE / rows.max(columns).max(1)).clamp(1, LARGEST_BLOCK);
    let width = (columns * side).max(NARROWEST_MAP) + 2 * MARGIN;
    let height = rows * side + 2 * MARGIN + TITLE_HEIGHT;

    let mut svg = String::new();
    {
        let area =
            SVGBackend::with_string(&mut svg, (width as u32, height as u32)).into_drawing_area();
        let drawn = draw(&area, title, pattern, side).and_then(|()| area.present());
        drawn.map_err(|error| DrawError { reason: error.to_string() })?;
    }
    Ok(svg)
}

/// Draws the title, the frame and one square per kept block.
fn draw<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    title: &str,
    pattern: &BlockPattern,
    side: usize,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    area.fill(&WHITE)?;
    let font = ("sans-serif", 18).into_font();
    area.draw(&Text::new(title, (MARGIN as i32, MARGIN as i32), font))?;
    let at = |row: usize, column: usize| {
        ((MARGIN + column * side) as i32, (MARGIN + TITLE_HEIGHT + row * side) as i32)
    };
    let corners = [at(0, 0), at(pattern.block_rows(), pattern.block_cols())];
    area.draw(&Rectangle::new(corners, RGBColor(238, 238, 238).filled()))?;
    for (row, column) in pattern.blocks() {
        area.draw(&Rectangle::new([at(row, column), at(row + 1, column + 1)], KEPT.filled()))?;
    }
    area.draw(&Rectangle::new(corners, BLACK.mix(0.6)))
}
