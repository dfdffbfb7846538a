//! A run's file, read back.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Run;
use crate::record::{Line, VERSION};

/// Reads the file of one run.
///
/// # Errors
/// If it cannot be opened, does not begin with its machine, is of another version of the form, or holds a line that
/// is not of the form. The message names file and line, and what to do.
pub fn read(path: &Path) -> Result<Run> {
    let file = path.display();
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("{file}: cannot be read; pass a file written by `blast-bench run`")
    })?;
    let mut run: Option<Run> = None;
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let at = format!("{file}:{number}");
        match (parse(line, &at)?, &mut run) {
            (Line::Machine(machine), None) => {
                run = Some(Run { machine, peaks: Vec::new(), results: Vec::new() })
            }
            (Line::Machine(_), Some(_)) => {
                bail!("{at}: a second machine; cut the file here, one run a file")
            }
            (_, None) => bail!(
                "{at}: the first line must name the machine (\"kind\":\"machine\"); its head is missing, so measure \
                 again with `blast-bench run`"
            ),
            (Line::Peak(peak), Some(run)) => run.peaks.push(peak),
            (Line::Result(result), Some(run)) => run.results.push(result),
        }
    }
    run.with_context(|| format!("{file}: the file is empty; measure again with `blast-bench run`"))
}

/// One line. The version is looked at first, since another one may have other fields.
fn parse(line: &str, at: &str) -> Result<Line> {
    let advice =
        "if the run was cut short, remove this line, else measure again with `blast-bench run`";
    let value: Value =
        serde_json::from_str(line).with_context(|| format!("{at}: broken JSON; {advice}"))?;
    let version = value.get("version").filter(|_| value["kind"] == "machine");
    if let Some(version) = version.filter(|v| **v != VERSION) {
        let commit = value["commit"].as_str().filter(|c| !c.is_empty()).unwrap_or("that wrote it");
        bail!(
            "{at}: version {version} of the form, this report reads version {VERSION}; measure again, or use the \
             `blast-bench` of commit {commit}"
        );
    }
    serde_json::from_value(value).with_context(|| format!("{at}: not a line of a run; {advice}"))
}
