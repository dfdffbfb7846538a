//! `blast densify`: packed weights in, dense ones out, as they were stored before.

use std::collections::HashMap;
use std::fmt;

use burn_blast_checkpoint::format::{METADATA_KEY, PROBE, TENSORS, leaf};
use burn_blast_checkpoint::{
    Checkpoint, CheckpointError, Entry, FileContent, FileMetadata, Output, PackedWeight, Shard,
    rewrite,
};
use serde::Serialize;

use crate::args::DensifyArgs;
use crate::error::Error;
use crate::progress::Progress;
use crate::report::Rewrite;

/// What was done.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(flatten)]
    rewrite: Rewrite,
    /// Weights that are dense now.
    weights: Vec<String>,
}

/// Writes a checkpoint with every packed weight dense, zero where no block is kept.
///
/// # Errors
/// If the checkpoint holds nothing packed and is no GGUF file, or is damaged, or the output cannot be written.
pub fn densify(args: &DensifyArgs, progress: &Progress) -> Result<Report, Error> {
    let (input, output) = (&args.input, &args.out.output);
    let checkpoint = Checkpoint::open(input)?;
    let staging = Output::new(&checkpoint.source, output, args.out.force)?;
    let packed = PackedWeight::all(&checkpoint)?;
    if packed.is_empty() && checkpoint.source.unpacked.is_none() {
        return Err(Error::NothingPacked { path: input.to_owned() });
    }
    if let Some(both) = packed.iter().find(|packed| checkpoint.tensor(&packed.name).is_some()) {
        return Err(CheckpointError::Both(both.name.clone()).into());
    }
    let mut parts: HashMap<String, Option<&PackedWeight<'_>>> = HashMap::new();
    for packed in &packed {
        for part in TENSORS.iter().chain([&PROBE]) {
            // The dense weight takes the place of the values; the other parts go.
            let stays = (*part == TENSORS[0]).then_some(packed);
            parts.insert(leaf(&packed.name, part), stays);
        }
    }
    let written = rewrite(&checkpoint, staging, progress, |shard| content(shard, &parts))?;
    Ok(Report {
        rewrite: Rewrite::new(input, output, &checkpoint, written),
        weights: packed.iter().map(|packed| packed.name.clone()).collect(),
    })
}

fn content<'a>(
    shard: &'a Shard,
    parts: &HashMap<String, Option<&PackedWeight<'a>>>,
) -> Result<FileContent<'a>, Error> {
    let mut metadata = shard.metadata.clone();
    // What this program added goes. The entry of a file of burn-blast says how its dense weights are stored.
    if FileMetadata::read(shard)?.is_some_and(|metadata| metadata.out_in.is_some()) {
        metadata.remove(METADATA_KEY);
    }
    let entry = |(name, tensor)| match parts.get(name) {
        None => Some(Entry::copy(name, tensor)),
        Some(packed) => packed.map(|packed| Entry::unpacked(packed.clone())),
    };
    Ok(FileContent { metadata, entries: shard.tensors().filter_map(entry).collect() })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.weights.len() {
            0 => self.rewrite.write(f, format_args!("unpacked to f32")),
            count => self.rewrite.write(f, format_args!("{count} weights dense again")),
        }
    }
}
