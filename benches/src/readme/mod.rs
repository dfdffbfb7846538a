//! The measured tables and pictures of the documentation, generated from the records in `benches/record`.
//!
//! In a Markdown file a generated block starts with `<!-- generated:NAME -->` and ends with `<!-- /generated -->`.
//! [`write()`] rewrites these blocks and the pictures; a test compares the committed files with the records.

mod picture;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::file;

/// The picture of the main job, relative to the root of the repository.
const PICTURE: &str = "docs/img/result.svg";

/// The same quantity of the models of a `pretrain` report. Early reports have no narrow dense one.
#[derive(Deserialize)]
struct Runs<T> {
    dense: T,
    narrow: Option<T>,
    sparse: T,
}

/// A time in a `pretrain` report.
#[derive(Deserialize)]
struct Time {
    median_ms: f64,
}

/// The parts of a `pretrain` report that the documentation shows.
#[derive(Deserialize)]
struct Pretrain {
    validation_loss: Runs<f64>,
    gap_percent: f64,
    sparsity: f64,
    parameters: Runs<u64>,
    #[serde(alias = "mlp_training_bytes")]
    pruned_training_bytes: Runs<u64>,
    mlp_forward: Runs<Time>,
    mlp_rows: usize,
    training_step: Runs<Time>,
}

/// Rewrites all generated blocks and pictures that differ from the records.
///
/// # Errors
/// If a record or a file cannot be read, a block is missing, or a file cannot be written.
pub fn write() -> Result<()> {
    for (path, text) in generated()? {
        if fs::read_to_string(&path).is_ok_and(|current| current == text) {
            continue;
        }
        file::write(&path, true, &text)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// Every file with generated content, and its text according to the records.
fn generated() -> Result<Vec<(PathBuf, String)>> {
    let root = root();
    let result = picture::result()?;
    let files = [
        ("README.md", vec![("pretrain", result.images), ("products", tables::products()?)]),
        (
            "docs/src/when-it-pays.md",
            vec![
                ("peers", tables::peers()?),
                ("losses", tables::losses()?),
                ("start-sparse", tables::start_sparse()?),
                ("wider", tables::wider()?),
                ("search", tables::search()?),
                ("start-dense", tables::start_dense()?),
                ("roles", tables::roles()?),
            ],
        ),
        (
            "docs/src/recover.md",
            vec![("recover", tables::recover()?), ("control", tables::control()?)],
        ),
    ];
    let mut all = vec![(root.join(PICTURE), result.svg)];
    for (name, blocks) in files {
        let path = root.join(name);
        let mut text = read_text(&path)?;
        for (block, content) in blocks {
            text = replace(&text, block, &content).with_context(|| format!("in {name}"))?;
        }
        all.push((path, text));
    }
    Ok(all)
}

/// `text` with new content in one generated block.
fn replace(text: &str, block: &str, content: &str) -> Result<String> {
    const END: &str = "<!-- /generated -->";
    let start = format!("<!-- generated:{block} -->");
    ensure!(text.matches(&start).count() == 1, "there must be exactly one block {start}");
    let (before, rest) = text.split_once(&start).expect("counted above");
    let (_, after) = rest.split_once(END).with_context(|| format!("{start} has no {END}"))?;
    Ok(format!("{before}{start}\n{}\n{END}{after}", content.trim_end()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in a folder").to_owned()
}

/// Path of a record.
fn record(name: &str) -> PathBuf {
    root().join("benches/record").join(name)
}

fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))
}

/// A record of one or several JSON values.
fn read_json<T: DeserializeOwned>(name: &str) -> Result<Vec<T>> {
    let text = read_text(&record(name))?;
    let values: Result<_, _> = serde_json::Deserializer::from_str(&text).into_iter().collect();
    values.with_context(|| format!("in {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_agrees_with_the_records() {
        for (path, text) in generated().unwrap() {
            let current = fs::read_to_string(&path).unwrap_or_default();
            assert!(
                current == text,
                "{} differs from the records: run `cargo run -p blast-bench -- readme`, commit the result",
                path.display()
            );
        }
    }

    #[test]
    fn a_block_is_replaced_and_its_surroundings_stay() {
        let text = "a\n<!-- generated:x -->\nold\n<!-- /generated -->\nb\n";
        let expected = "a\n<!-- generated:x -->\nnew\n<!-- /generated -->\nb\n";
        assert_eq!(replace(text, "x", "new\n").unwrap(), expected);
        assert_eq!(replace(expected, "x", "new\n").unwrap(), expected);
        let error = replace(text, "y", "new").unwrap_err().to_string();
        assert!(error.contains("generated:y"), "{error}");
        let error = replace("<!-- generated:x -->", "x", "new").unwrap_err().to_string();
        assert!(error.contains("/generated"), "{error}");
    }
}
