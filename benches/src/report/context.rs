//! Shared by all sections: the runs, their names, and one colour per value.

use std::cmp::Ordering;

use crate::element::Element;
use crate::format;
use crate::record::Run;

/// Colours of the style sheet; further values reuse the first ones, with dashed lines.
const COLORS: usize = 7;

/// The runs, and the values that get the same colour on the whole page.
#[derive(Debug)]
pub struct Context<'a> {
    /// All runs.
    pub runs: &'a [Run],
    rows: Vec<usize>,
    /// All data types, in the order of the page.
    pub dtypes: Vec<Element>,
}

impl<'a> Context<'a> {
    /// Collects the values that get colours.
    pub fn new(runs: &'a [Run]) -> Self {
        let problems = || runs.iter().flat_map(|run| &run.results).map(|result| &result.problem);
        let rows = distinct(problems().map(|problem| problem.rows), Ord::cmp);
        let dtypes = distinct(problems().map(|problem| problem.dtype), Ord::cmp);
        Self { runs, rows, dtypes }
    }

    /// Runs with their names.
    pub fn named(&self) -> impl Iterator<Item = (String, &'a Run)> {
        self.runs.iter().enumerate().map(|(index, run)| (self.name(index), run))
    }

    /// Name of a run: a letter if there are several, device, backend and features.
    fn name(&self, index: usize) -> String {
        let machine = format::machine(&self.runs[index].machine);
        if self.runs.len() > 1 { format!("{}: {machine}", self.tag(index)) } else { machine }
    }

    /// Short name of a run, for a column of a table: its letter if there are several.
    pub fn tag(&self, index: usize) -> String {
        match b"ABCDEFGHIJKLMNOPQRSTUVWXYZ".get(index) {
            _ if self.runs.len() == 1 => self.runs[index].machine.backend.clone(),
            Some(letter) => char::from(*letter).to_string(),
            None => format!("Z{index}"),
        }
    }

    /// Colour of a number of rows.
    pub fn row_color(&self, rows: usize) -> String {
        color(&self.rows, rows)
    }

    /// Colour of a data type.
    pub fn dtype_color(&self, dtype: Element) -> String {
        color(&self.dtypes, dtype)
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

/// Class of the colour of a known value.
fn color<T: PartialEq>(known: &[T], value: T) -> String {
    let index = known.iter().position(|known| *known == value).unwrap_or(0);
    let again = if index >= COLORS { " again" } else { "" };
    format!("c{}{again}", index % COLORS)
}
