//! Writing a checkpoint file by file, tensor by tensor, and what else its folder holds.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use safetensors::tensor::TensorInfo;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::Error;
use crate::checkpoint::Checkpoint;
use crate::entry::Entry;
use crate::output::Output;
use crate::progress::Progress;
use crate::shard::Shard;

/// What becomes of one file.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Entries of `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// Its tensors, in any order.
    pub entries: Vec<Entry<'a>>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Bytes of all tensors.
    pub bytes: u64,
    /// What was not copied from the folder: files that hold weights in another form, which would contradict the new
    /// ones, and what is no file, such as links to folders.
    pub left_out: Vec<String>,
}

/// Endings of files with weights in another form.
const WEIGHTS: [&str; 10] =
    ["safetensors", "bin", "pt", "pth", "gguf", "h5", "msgpack", "onnx", "ot", "tflite"];

/// Bytes handed to the system at once.
const BUFFER: usize = 1 << 20;

/// Writes a checkpoint like `checkpoint`, with the tensors `plan` gives for each of its files.
///
/// # Errors
/// If `plan` has one, or something cannot be read or written. Nothing is left behind then.
pub fn rewrite<'a>(
    checkpoint: &'a Checkpoint,
    mut output: Output,
    progress: &Progress,
    mut plan: impl FnMut(&'a Shard) -> Result<Plan<'a>, Error>,
) -> Result<Written, Error> {
    let (mut weight_map, mut bytes) = (BTreeMap::new(), 0);
    for shard in &checkpoint.shards {
        let plan = plan(shard)?;
        let file_name = shard.file_name();
        let file = output.create(&file_name)?;
        bytes += write(file, &plan, &file_name, progress).map_err(Error::write(output.path()))?;
        let names = plan.entries.iter().map(|entry| entry.name().to_owned());
        weight_map.extend(names.map(|name| (name, file_name.clone())));
    }
    if let Some(index) = &checkpoint.source.index {
        let text = index.rewritten(weight_map, bytes);
        let mut file = output.create(&index.file_name())?;
        file.write_all(text.as_bytes()).map_err(Error::write(output.path()))?;
    }
    let mut left_out = Vec::new();
    if let Some(folder) = &checkpoint.source.folder {
        let index = checkpoint.source.index.iter().map(|index| index.file_name());
        let written: Vec<String> =
            checkpoint.shards.iter().map(Shard::file_name).chain(index).collect();
        copy_rest(folder, "", &written, &mut output, &mut left_out)?;
    }
    output.finish()?;
    left_out.sort();
    Ok(Written { bytes, left_out })
}

/// Writes one file; returns the bytes of its tensors. The safetensors crate can stream too, but it writes the
/// entries of `__metadata__` in an order that changes from run to run, and holds each tensor in memory whole.
fn write(file: File, plan: &Plan<'_>, name: &str, progress: &Progress) -> io::Result<u64> {
    let mut entries: Vec<&Entry<'_>> = plan.entries.iter().collect();
    // Widest elements first, as the safetensors crate does, so that every tensor is aligned.
    entries.sort_by(|a, b| b.dtype().cmp(&a.dtype()).then_with(|| a.name().cmp(b.name())));
    let bytes = entries.iter().map(|entry| entry.bytes() as u64).sum();
    progress.begin(format!("writing {name}"), bytes);
    let mut header = serde_json::to_vec(&Header { metadata: &plan.metadata, entries: &entries })?;
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
    let mut out = BufWriter::with_capacity(BUFFER, file);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for entry in entries {
        entry.write(&mut out)?;
        progress.advance(entry.bytes() as u64);
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(bytes)
}

struct Header<'a> {
    metadata: &'a BTreeMap<String, String>,
    entries: &'a [&'a Entry<'a>],
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry("__metadata__", self.metadata)?;
        }
        let mut start = 0;
        for entry in self.entries {
            let data_offsets = (start, start + entry.bytes());
            start = data_offsets.1;
            let (dtype, shape) = (entry.dtype(), entry.shape().to_vec());
            map.serialize_entry(entry.name(), &TensorInfo { dtype, shape, data_offsets })?;
        }
        map.end()
    }
}

/// Copies what is in the folder beside the weights: configuration, tokenizer and so on. Hidden files, such as
/// those of git, stay where they are.
fn copy_rest(
    folder: &Path,
    below: &str,
    written: &[String],
    output: &mut Output,
    left_out: &mut Vec<String>,
) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(Error::read(folder))? {
        let entry = entry.map_err(Error::read(folder))?;
        let path = entry.path();
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().map_err(Error::read(&path))?;
        if entry.file_name().to_string_lossy().starts_with('.') || written.contains(&name) {
            continue;
        }
        if kind.is_dir() {
            copy_rest(&path, &format!("{name}/"), written, output, left_out)?;
        } else if path.is_file() && !holds_weights(&path) {
            let mut from = File::open(&path).map_err(Error::read(&path))?;
            let mut to = output.create(&name)?;
            io::copy(&mut from, &mut to).map_err(Error::write(output.path()))?;
        } else {
            left_out.push(name);
        }
    }
    Ok(())
}

/// Whether a file holds weights, or is the index of such files.
fn holds_weights(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    WEIGHTS.contains(&extension.as_str()) || path.to_string_lossy().ends_with(".index.json")
}
