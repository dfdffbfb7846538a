//! A pattern as a picture.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::BlockPattern;

/// Longer side of a pattern map in pixels, at most; a block is drawn no smaller than a pixel.
const MAP_SIDE: usize = 900;

/// Largest side of a drawn block in pixels.
const LARGEST_BLOCK: usize = 24;

/// Height of a map's title line.
const TITLE_HEIGHT: usize = 36;

/// Narrowest map, so that its title can be read.
const NARROWEST_MAP: usize = 360;

/// Empty border.
const MARGIN: usize = 12;

/// Color of a kept block (Okabe and Ito's blue).
const KEPT: RGBColor = RGBColor(0, 114, 178);

/// The picture could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("the pattern could not be drawn: {reason}")]
pub struct DrawError {
    /// What the drawing library says.
    reason: String,
}

/// The kept blocks of a weight as SVG text: rows are the weight's inputs, columns its outputs.
///
/// # Errors
/// If the drawing library refuses.
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

/// Title, frame and one square for each kept block.
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
