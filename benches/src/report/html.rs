//! Elements of the page: sections, figures, legends, tables.

use std::fmt::Write;

use crate::format::escape;

/// A part of the page with a heading.
#[derive(Debug)]
pub struct Section {
    pub id: &'static str,
    /// Heading, also in the list of contents.
    pub title: &'static str,
    /// What is shown and how to read it, as HTML.
    pub lead: String,
    /// The content, as HTML; if it is empty, a remark replaces it.
    pub body: String,
}

impl Section {
    pub fn html(&self) -> String {
        let Self { id, title, lead, body } = self;
        let lead =
            if body.is_empty() { "These records have no results for this section." } else { lead };
        format!(
            "<section id=\"{id}\"><h2>{title}</h2><p class=\"lead\">{lead}</p>\n{body}</section>\n"
        )
    }
}

/// Plots side by side, as many as fit the window.
pub fn grid(figures: &str) -> String {
    if figures.is_empty() {
        String::new()
    } else {
        format!("<div class=\"plots\">\n{figures}</div>\n")
    }
}

/// A heading inside a section.
pub fn heading(level: u8, text: &str) -> String {
    format!("<h{level}>{}</h{level}>\n", escape(text))
}

/// A legend: class of each mark, and its text.
pub fn legend(entries: &[(String, String)]) -> String {
    let mut out = String::from("<ul class=\"legend\">");
    for (class, text) in entries {
        let _ = write!(out, "<li><i class=\"{class}\"></i>{}</li>", escape(text));
    }
    out + "</ul>\n"
}

/// A table that scrolls sideways if it is too wide. The columns after the first `texts` are aligned as numbers.
pub fn table(
    columns: &[impl AsRef<str>],
    texts: usize,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let class = |column: usize| if column < texts { "" } else { " class=\"n\"" };
    let mut out = String::from("<div class=\"scroll\" tabindex=\"0\"><table><thead><tr>");
    for (column, name) in columns.iter().enumerate() {
        let _ = write!(out, "<th scope=\"col\"{}>{}</th>", class(column), escape(name.as_ref()));
    }
    out += "</tr></thead><tbody>\n";
    for row in rows {
        out += "<tr>";
        for (column, cell) in row.iter().enumerate() {
            let _ = write!(out, "<td{}>{}</td>", class(column), escape(cell));
        }
        out += "</tr>\n";
    }
    out + "</tbody></table></div>\n"
}

/// Long content that the reader can open.
pub fn details(summary: &str, body: &str) -> String {
    format!("<details><summary>{}</summary>\n{body}</details>\n", escape(summary))
}
