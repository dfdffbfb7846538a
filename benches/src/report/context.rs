//! Shared by all sections: the runs, their names, and one colour per value.

use std::cmp::Ordering;

use crate::element::Element;
use crate::format;
use crate::metrics::group;
use crate::record::{Measured, Problem, Run};

/// Colours of the style sheet; further values reuse the first ones, with dashed lines.
const COLORS: usize = 7;

/// Layer and size of the weight.
pub type Layer<'a> = (&'a str, usize, usize);

/// The runs, and the values that get the same colour on the whole page.
#[derive(Debug)]
pub struct Context<'a> {
    /// All runs.
    pub runs: &'a [Run],
    rows: Vec<usize>,
    /// All sparsities in rising order.
    pub sparsities: Vec<f64>,
    /// All data types, in the order of the page.
    pub dtypes: Vec<Element>,
}

impl<'a> Context<'a> {
    /// Collects the values that get colours.
    pub fn new(runs: &'a [Run]) -> Self {
        let problems = || runs.iter().flat_map(|run| &run.results).map(|result| &result.problem);
        let rows = distinct(problems().map(|problem| problem.rows), Ord::cmp);
        let sparsities = distinct(problems().map(|problem| problem.sparsity), f64::total_cmp);
        let dtypes = distinct(problems().map(|problem| problem.dtype), Ord::cmp);
        Self { runs, rows, sparsities, dtypes }
    }

    /// Runs with their names.
    pub fn named(&self) -> impl Iterator<Item = (String, &'a Run)> {
        self.runs.iter().enumerate().map(|(index, run)| (self.name(index), run))
    }

    /// Name of a run: a letter if there are several, device, backend and features.
    pub fn name(&self, index: usize) -> String {
        let machine = format::machine(&self.runs[index].machine);
        if self.runs.len() > 1 { format!("{}: {machine}", letter(index)) } else { machine }
    }

    /// Short name of a run, for a column of a table.
    pub fn tag(&self, index: usize) -> String {
        if self.runs.len() > 1 { letter(index) } else { self.runs[index].machine.backend.clone() }
    }

    /// Colour of a number of rows.
    pub fn row_color(&self, rows: usize) -> String {
        color(self.rows.iter().position(|known| *known == rows))
    }

    /// Colour of a sparsity.
    pub fn sparsity_color(&self, sparsity: f64) -> String {
        color(self.sparsities.iter().position(|known| *known == sparsity))
    }

    /// Colour of a data type.
    pub fn dtype_color(&self, dtype: Element) -> String {
        color(self.dtypes.iter().position(|known| *known == dtype))
    }
}

/// Different values in rising order.
pub fn distinct<T: PartialEq>(
    values: impl Iterator<Item = T>,
    order: impl FnMut(&T, &T) -> Ordering,
) -> Vec<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_by(order);
    values.dedup();
    values
}

/// Letter of a run in a comparison.
pub fn letter(index: usize) -> String {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    letters.get(index).map_or_else(|| format!("Z{index}"), |letter| char::from(*letter).to_string())
}

/// Class of the colour of the value at `index`.
pub fn color(index: Option<usize>) -> String {
    let index = index.unwrap_or(0);
    let again = if index >= COLORS { " again" } else { "" };
    format!("c{}{again}", index % COLORS)
}

/// Layer and size of the weight.
pub fn layer(problem: &Problem) -> Layer<'_> {
    (&problem.model, problem.d_input, problem.d_output)
}

/// Results of a run grouped by layer.
pub fn layers<'a>(
    results: impl IntoIterator<Item = &'a Measured>,
) -> Vec<(Layer<'a>, Vec<&'a Measured>)> {
    group(results, |result| layer(&result.problem))
}

/// Block, data type and caches: the properties in which the plots of a layer differ, as a heading.
pub fn variant(problem: &Problem) -> String {
    format!("block {}, {}, {}", problem.block, problem.dtype, format::caches(problem.cold))
}
