//! One self-contained HTML page from the files of one or several runs.
//!
//! [`read()`] parses a file, [`page`] lays out the sections in the order a reader asks: what was measured, where it
//! pays, how near it is to the limits of the device, where it loses, and every number at the end. The page holds no
//! script and loads nothing; its plots follow the reader's light or dark setting and keep the size of their text on a
//! phone.

mod auto;
mod bandwidth;
mod devices;
mod facts;
mod head;
mod html;
mod lanes;
mod losses;
mod read;
mod results;
mod roofline;
mod scale;
mod shared;
mod speedup;
mod svg;
#[cfg(test)]
mod tests;
mod verbs;
mod words;

pub use read::read;

use crate::record::{Machine, Measured, Peak};
use html::Section;
use shared::Shared;

/// The file of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Where and by what it was measured.
    pub machine: Machine,
    /// Limits of the device, measured beside the problems.
    pub peaks: Vec<Peak>,
    /// One per problem, in the order of the file.
    pub results: Vec<Measured>,
}

/// The page, complete with its style.
pub fn page(runs: &[Run]) -> String {
    let shared = Shared::new(runs);
    let head = head::head(&shared);
    let sections: Vec<Section> =
        if runs.iter().all(|run| run.results.is_empty()) { Vec::new() } else { sections(&shared) };
    let links: String = sections
        .iter()
        .map(|Section { id, title, .. }| format!("<a href=\"#{id}\">{title}</a>\n"))
        .collect();
    let body: String = sections.iter().map(Section::html).collect();
    let style = include_str!("style.css");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>burn-blast: block-sparse against dense</title>\n<style>\n{style}</style>\n</head>\n\
         <body>\n<header>\n{head}<nav aria-label=\"Contents\">\n{links}</nav>\n</header>\n<main>\n{body}</main>\n\
         </body>\n</html>\n"
    )
}

fn sections(shared: &Shared) -> Vec<Section> {
    let devices = devices::section(shared);
    [speedup::section(shared), roofline::section(shared), bandwidth::section(shared)]
        .into_iter()
        .chain(devices)
        .chain([
            verbs::section(shared),
            auto::section(shared),
            losses::section(shared),
            results::section(shared),
        ])
        .collect()
}
