//! What the pages name exists: links, files and types.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders whose content is no part of the project.
const SKIPPED: [&str; 3] = ["target", ".git", "pretrain-out"];

/// A page and its text without code blocks.
struct Page {
    path: PathBuf,
    text: String,
}

fn pages() -> Vec<Page> {
    let pages = files().into_iter().filter(|path| path.extension().is_some_and(|end| end == "md"));
    pages.map(|path| Page { text: without_code_blocks(&read(&path)), path }).collect()
}

/// Pages about the code as it is. Decisions and changes keep the names of their day.
fn current_pages() -> Vec<Page> {
    let history = |page: &Page| {
        page.path.ends_with("CHANGELOG.md")
            || page.path.iter().any(|part| part == "adr" || part == "record")
    };
    pages().into_iter().filter(|page| !history(page)).collect()
}

/// Pages that a run wrote, beside fewer files than it had.
fn is_record(path: &Path) -> bool {
    path.iter().any(|part| part == "record")
}

#[test]
fn every_link_leads_to_a_file() {
    let mut missing = Vec::new();
    for Page { path, text } in pages().into_iter().filter(|page| !is_record(&page.path)) {
        let folder = path.parent().expect("a page is in a folder");
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let sources = text.split("src=\"").skip(1).filter_map(|rest| rest.split('"').next());
        for link in links.chain(sources) {
            let target = link.split('#').next().unwrap_or_default().trim();
            if !target.is_empty() && !target.contains("://") && !folder.join(target).exists() {
                missing.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "links that lead nowhere:\n{}", missing.join("\n"));
}

#[test]
fn every_source_file_that_a_page_names_exists() {
    let files = files();
    let known = |name: &str| files.iter().any(|file| file.ends_with(name));
    let mut missing = Vec::new();
    for Page { path, text } in current_pages() {
        for span in code_spans(&text).filter(|span| span.ends_with(".rs") && !span.contains(' ')) {
            if !known(span) {
                missing.push(format!("{}: {span}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "source files that are not there:\n{}", missing.join("\n"));
}

#[test]
fn every_type_that_a_page_names_is_in_the_source() {
    let sources =
        files().into_iter().filter(|path| path.extension().is_some_and(|end| end == "rs"));
    let mut words = HashSet::new();
    for source in sources {
        let text = read(&source);
        words.extend(text.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned));
    }
    let mut missing = Vec::new();
    for Page { path, text } in current_pages() {
        for span in code_spans(&text) {
            let path_like = span.split("::").all(|part| {
                !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_')
            });
            let unknown = |part: &str| is_type(part) && !words.contains(part);
            if path_like && span.split("::").any(unknown) {
                missing.push(format!("{}: {span}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "types that no source file has:\n{}", missing.join("\n"));
}

/// Whether a name has the form of a Rust type of two words or more.
fn is_type(name: &str) -> bool {
    let capitals = name.chars().filter(char::is_ascii_uppercase).count();
    name.starts_with(|first: char| first.is_ascii_uppercase())
        && capitals > 1
        && name.contains(|c: char| c.is_ascii_lowercase())
}

/// Inline code of a page.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

fn without_code_blocks(text: &str) -> String {
    let mut inside = false;
    let kept = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !fence && !inside
    });
    kept.collect::<Vec<_>>().join("\n")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file of the project.
fn files() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder of the project can be listed") {
            let path = entry.expect("a listed entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match path.is_dir() {
                true if SKIPPED.contains(&&*name) => {}
                true => walk(&path, found),
                false => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("docs is in the root"), &mut found);
    found
}
