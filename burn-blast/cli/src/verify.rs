//! `blast verify`: every rule of the format, every file, every index, and whether every number is finite.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use burn_blast_checkpoint::format::{VALUES, leaf};
use burn_blast_checkpoint::{
    Checkpoint, CheckpointError, FileMetadata, PackedWeight, Shard, Source,
};
use serde::Serialize;

use crate::error::Error;
use crate::progress::Progress;

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    #[serde(serialize_with = "crate::paths::one")]
    pub path: PathBuf,
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
        Err(error @ CheckpointError::Index { .. }) => {
            let problems = vec![error.to_string()];
            return Ok(Report { path: path.to_owned(), files: 0, tensors: 0, packed: 0, problems });
        }
        Err(error) => return Err(error.into()),
    };
    let files = source.files.len();
    let (mut shards, mut problems) = (Vec::new(), Vec::new());
    for file in &source.files {
        match source.open(file) {
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
    let names = PackedWeight::names(&checkpoint);
    check_metadata(&checkpoint, &names, &mut problems);
    let bytes = |name: &String| {
        checkpoint.tensor(&leaf(name, VALUES)).map_or(0, |values| values.bytes().len() as u64)
    };
    let all = checkpoint.bytes();
    progress.begin("checking weights", all + names.iter().map(bytes).sum::<u64>());
    for (name, tensor) in checkpoint.shards.iter().flat_map(Shard::tensors) {
        problems.extend(tensor.check_finite(name).err());
        tensor.release();
        progress.advance(tensor.bytes().len() as u64);
    }
    for name in &names {
        match PackedWeight::read(&checkpoint, name) {
            Ok(packed) => problems.extend(packed.problems(&checkpoint)),
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
fn check_metadata(checkpoint: &Checkpoint, names: &[String], problems: &mut Vec<CheckpointError>) {
    let names: BTreeSet<&String> = names.iter().collect();
    for shard in &checkpoint.shards {
        match FileMetadata::read(shard) {
            Ok(metadata) => {
                let listed = metadata.and_then(|metadata| metadata.out_in).unwrap_or_default();
                for name in listed.iter().filter(|name| !names.contains(name)) {
                    let reason = format!("names \"{name}\", which is not a packed weight");
                    problems.push(CheckpointError::Metadata { path: shard.path.clone(), reason });
                }
            }
            Err(error) => problems.push(error),
        }
    }
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
