//! `blast verify`: every rule of the format, every file, every index.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use burn_blast_kernels::BlockPattern;
use serde::Serialize;

use crate::Error;
use crate::checkpoint::{Checkpoint, Source};
use crate::packed::{Origin, PROBE, Packed, misshapen, packed_names};
use crate::progress::Progress;
use crate::shard::Shard;

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The checkpoint.
    pub path: PathBuf,
    /// Its files.
    pub files: usize,
    /// Its tensors, in files that can be read.
    pub tensors: usize,
    /// Its packed weights, damaged or not.
    pub packed: usize,
    /// Everything that is wrong.
    pub problems: Vec<String>,
}

/// Checks a checkpoint.
///
/// # Errors
/// If there is none; what is wrong with one that is there is in the report.
pub fn verify(path: &Path, progress: &Progress) -> Result<Report, Error> {
    let source = match Source::find(path) {
        Ok(source) => source,
        // The checkpoint is there; its index is what is wrong with it.
        Err(error @ Error::Index { .. }) => {
            let problems = vec![error.to_string()];
            return Ok(Report { path: path.to_owned(), files: 0, tensors: 0, packed: 0, problems });
        }
        Err(error) => return Err(error),
    };
    let files = source.files.len();
    let (mut shards, mut problems) = (Vec::new(), Vec::new());
    for file in &source.files {
        match Shard::open(file) {
            Ok(shard) => shards.push(shard),
            Err(error) => problems.push(error),
        }
    }
    let whole = shards.len() == files;
    let (checkpoint, contradictions) = Checkpoint::of(source, shards);
    problems.extend(contradictions);
    if let (true, Some(index)) = (whole, &checkpoint.source.index) {
        problems.extend(index.check_total(checkpoint.bytes()).err());
    }
    let names = packed_names(&checkpoint);
    check_metadata(&checkpoint, &names, &mut problems);
    let bytes = |name: &String| {
        checkpoint.tensor(&format!("{name}.values")).map_or(0, |values| values.bytes().len() as u64)
    };
    progress.begin("checking weights".to_string(), names.iter().map(bytes).sum());
    for name in &names {
        match Packed::read(&checkpoint, name) {
            Ok(packed) => check_weight(&checkpoint, &packed, &mut problems),
            Err(errors) => problems.extend(errors),
        }
        progress.advance(bytes(name));
    }
    Ok(Report {
        path: path.to_owned(),
        files,
        tensors: checkpoint.names().len(),
        packed: names.len(),
        problems: problems.iter().map(ToString::to_string).collect(),
    })
}

/// Metadata that can be read and names only weights that are there.
fn check_metadata(checkpoint: &Checkpoint, names: &[String], problems: &mut Vec<Error>) {
    let names: BTreeSet<&String> = names.iter().collect();
    for shard in &checkpoint.shards {
        match Origin::read(shard) {
            Ok(origin) => {
                let listed = origin.and_then(|origin| origin.out_in).unwrap_or_default();
                for name in listed.iter().filter(|name| !names.contains(name)) {
                    let reason = format!("names \"{name}\", which is not a packed weight");
                    problems.push(Error::Metadata { path: shard.path().to_owned(), reason });
                }
            }
            Err(error) => problems.push(error),
        }
    }
}

/// What a reader that trusts the file would not notice.
fn check_weight(checkpoint: &Checkpoint, packed: &Packed<'_>, problems: &mut Vec<Error>) {
    let name = &packed.name;
    if checkpoint.tensor(name).is_some() {
        problems.push(Error::Both { name: name.clone() });
    }
    let pattern = &packed.pattern;
    let probe = checkpoint.tensor(&format!("{name}.{PROBE}"));
    let grid = [pattern.block_rows(), pattern.block_cols()];
    match (packed.armed, probe) {
        (true, None) => {
            problems.push(Error::PartMissing { name: name.clone(), part: PROBE });
        }
        (true, Some(probe)) if probe.shape() != grid => {
            problems.push(misshapen(name, PROBE, probe, format!("of {grid:?}")));
        }
        (false, Some(probe)) => {
            let expected = "absent, since the layout says that there is none".to_string();
            problems.push(misshapen(name, PROBE, probe, expected));
        }
        _ => {}
    }
    let outside = pattern.blocks().enumerate().find(|(slot, at)| {
        let inside = inside(pattern, *at);
        inside != [pattern.block().get(); 2] && !padding_is_zero(packed, *slot, inside)
    });
    if let Some((slot, (row, col))) = outside {
        problems.push(Error::Padding { name: name.clone(), slot, row, col });
    }
    packed.values.release();
}

/// Rows and columns of a block that are inside the weight.
fn inside(pattern: &BlockPattern, (row, col): (usize, usize)) -> [usize; 2] {
    let (shape, b) = (pattern.shape(), pattern.block().get());
    [b.min(shape.rows() - row * b), b.min(shape.cols() - col * b)]
}

fn padding_is_zero(packed: &Packed<'_>, slot: usize, [rows, cols]: [usize; 2]) -> bool {
    let (b, size) = (packed.pattern.block().get(), packed.element_size());
    let mut lines = packed.slot(slot).chunks_exact(b * size).enumerate();
    lines.all(|(row, line)| {
        let outside = if row < rows { &line[cols * size..] } else { line };
        outside.iter().all(|byte| *byte == 0)
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problems.iter().try_for_each(|problem| writeln!(f, "- {problem}"))?;
        let Self { files, tensors, packed, .. } = self;
        write!(
            f,
            "{}: {files} files, {tensors} tensors, {packed} packed weights, ",
            self.path.display()
        )?;
        match self.problems.len() {
            0 => write!(f, "nothing wrong"),
            1 => write!(f, "1 problem"),
            found => write!(f, "{found} problems"),
        }
    }
}
