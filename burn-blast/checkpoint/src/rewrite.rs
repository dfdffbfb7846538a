//! Writing a checkpoint, a file or a folder as the one it is made from: file by file, tensor by tensor, with the other
//! files of its folder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorInfo;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::CheckpointError;
use crate::atomic::{AtomicFile, AtomicFolder, folder_of};
use crate::checkpoint::{Checkpoint, INDEX, Source, safetensors_files};
use crate::entry::Entry;
use crate::shard::Shard;

/// A checkpoint being written. It appears complete or not at all.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    staging: Staging,
}

#[derive(Debug)]
enum Staging {
    File(AtomicFile),
    Folder(AtomicFolder),
}

impl Output {
    /// Begins an output of the same kind as the input, a file or a folder.
    ///
    /// # Errors
    /// If it exists and must not be replaced, overlaps the input, or cannot be written beside its place.
    pub fn new(source: &Source, path: &Path, force: bool) -> Result<Self, CheckpointError> {
        check_output(Some(&source.path), source.folder.is_some(), path, force)?;
        let staging = match &source.folder {
            Some(_) => AtomicFolder::new(path, force).map(Staging::Folder),
            None => AtomicFile::new(path, force).map(Staging::File),
        };
        let staging = staging.map_err(CheckpointError::write(path))?;
        Ok(Self { path: path.to_owned(), staging })
    }

    /// Opens a file of the output. An output that is a file has only the one.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn create(&mut self, name: &str) -> Result<File, CheckpointError> {
        let file = match &self.staging {
            Staging::File(file) => file.as_file().try_clone(),
            Staging::Folder(folder) => folder.create(name),
        };
        file.map_err(CheckpointError::write(&self.path))
    }

    /// Puts the output in its place.
    ///
    /// # Errors
    /// If the system refuses, or something that must not be replaced has appeared there meanwhile. What was there
    /// before is there still, or again.
    pub fn finish(self) -> Result<(), CheckpointError> {
        let done = match self.staging {
            Staging::File(file) => file.finish(),
            Staging::Folder(folder) => folder.finish(),
        };
        done.map_err(CheckpointError::write(self.path))
    }
}

/// The content of a safetensors file.
pub struct FileContent<'a> {
    /// Entries of `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// Its tensors, in any order.
    pub entries: Vec<Entry<'a>>,
}

impl FileContent<'_> {
    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bytes() as u64).sum()
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Bytes of all tensors.
    pub bytes: u64,
    /// What was not copied from the folder: files that hold weights in another form, which would contradict the new
    /// ones, and what is not a file, such as links to folders.
    pub left_out: Vec<String>,
}

/// Endings of files with weights in another form.
const WEIGHTS: [&str; 14] = [
    "safetensors",
    "bin",
    "pt",
    "pth",
    "ckpt",
    "gguf",
    "h5",
    "msgpack",
    "npz",
    "onnx",
    "onnx_data",
    "ot",
    "tflite",
    "bpk",
];

/// Receives progress while files are written.
pub trait Progress {
    /// Writing of `file`, of `bytes` bytes, begins.
    fn begin(&self, file: &str, bytes: u64);

    /// Another `bytes` bytes are written.
    fn advance(&self, bytes: u64);
}

/// Bytes handed to the system at once.
const BUFFER: usize = 1 << 20;

/// Writes a checkpoint like `checkpoint`, with the tensors `plan` gives for each of its files.
///
/// # Errors
/// If `plan` has one, or something cannot be read or written. Nothing is left behind then.
pub fn rewrite<'a, E: From<CheckpointError>>(
    checkpoint: &'a Checkpoint,
    mut output: Output,
    progress: &impl Progress,
    mut plan: impl FnMut(&'a Shard) -> Result<FileContent<'a>, E>,
) -> Result<Written, E> {
    let (mut weight_map, mut bytes) = (BTreeMap::new(), 0);
    for shard in &checkpoint.shards {
        let content = plan(shard)?;
        let file = output.create(&shard.name)?;
        progress.begin(&shard.name, content.bytes());
        write_safetensors(&file, &content, &mut |bytes| progress.advance(bytes))
            .and_then(|()| file.sync_all())
            .map_err(CheckpointError::write(&output.path))?;
        bytes += content.bytes();
        let names = content.entries.iter().map(|entry| entry.name.clone());
        weight_map.extend(names.map(|name| (name, shard.name.clone())));
    }
    if let Some(index) = &checkpoint.source.index {
        let text = index.rewritten(weight_map, bytes);
        let mut file = output.create(&index.file_name())?;
        file.write_all(text.as_bytes()).map_err(CheckpointError::write(&output.path))?;
    }
    let mut left_out = Vec::new();
    if let (Some(from), Staging::Folder(to)) = (&checkpoint.source.folder, &output.staging) {
        let index = checkpoint.source.index.iter().map(|index| index.file_name());
        let written: Vec<String> =
            checkpoint.shards.iter().map(|shard| shard.name.clone()).chain(index).collect();
        left_out = copy_rest(from, &written, to)?;
    }
    output.finish()?;
    Ok(Written { bytes, left_out })
}

/// Writes a safetensors file, tensor by tensor, and calls `advance` with the bytes of each. The safetensors crate can
/// stream too, but it writes the metadata in an order that changes from run to run.
///
/// # Errors
/// If `out` or the source of a tensor does, or a tensor writes another number of bytes than its shape needs.
pub fn write_safetensors(
    out: impl Write,
    content: &FileContent<'_>,
    advance: &mut dyn FnMut(u64),
) -> io::Result<()> {
    let mut entries: Vec<&Entry<'_>> = content.entries.iter().collect();
    // Widest elements first, as the safetensors crate does, so that every tensor is aligned.
    entries.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    let header = Header { metadata: &content.metadata, entries: &entries };
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
    let mut out = Counted { out: BufWriter::with_capacity(BUFFER, out), bytes: 0 };
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for entry in entries {
        let start = out.bytes;
        entry.write(&mut out)?;
        let (found, expected) = (out.bytes - start, entry.bytes() as u64);
        if found != expected {
            let name = &entry.name;
            let reason = format!("tensor \"{name}\" has {found} bytes instead of {expected}");
            return Err(io::Error::other(reason));
        }
        advance(expected);
    }
    out.flush()
}

/// Counts what is written.
struct Counted<W: Write> {
    out: BufWriter<W>,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
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
            let (dtype, shape) = (entry.dtype, entry.shape.clone());
            map.serialize_entry(&entry.name, &TensorInfo { dtype, shape, data_offsets })?;
        }
        map.end()
    }
}

/// Copies the other files of a folder: configuration, tokenizer and so on. Hidden files, such as git's, are not copied, nor
/// what is `written` otherwise. Returns what was left out, by name: files that hold weights in another form, and what is
/// not a file.
///
/// # Errors
/// If a file cannot be read or written.
pub fn copy_rest(
    from: &Path,
    written: &[String],
    to: &AtomicFolder,
) -> Result<Vec<String>, CheckpointError> {
    let (mut left_out, mut folders) = (Vec::new(), vec![String::new()]);
    while let Some(below) = folders.pop() {
        let folder = from.join(&below);
        for entry in fs::read_dir(&folder).map_err(CheckpointError::read(&folder))? {
            let entry = entry.map_err(CheckpointError::read(&folder))?;
            let path = entry.path();
            let name = format!("{below}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().map_err(CheckpointError::read(&path))?;
            if entry.file_name().to_string_lossy().starts_with('.') || written.contains(&name) {
                continue;
            }
            if kind.is_dir() {
                folders.push(format!("{name}/"));
            } else if path.is_file() && !holds_weights(&path) {
                let mut source = File::open(&path).map_err(CheckpointError::read(&path))?;
                let copied = to.create(&name).and_then(|mut file| io::copy(&mut source, &mut file));
                copied.map_err(CheckpointError::write(to.path().join(&name)))?;
            } else {
                left_out.push(name);
            }
        }
    }
    left_out.sort();
    Ok(left_out)
}

/// Whether a file holds weights, or is the index of such files.
fn holds_weights(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let name = path.to_string_lossy();
    WEIGHTS.contains(&extension.as_str())
        || name.ends_with(".index.json")
        || name.ends_with(".onnx.data")
}

/// Checks before any work is done that an output, a folder or a file, can be written: its folder takes files, it does not
/// overlap the input, if there is one, and nothing is there that must stay. `force` replaces a file by a file and a
/// checkpoint by a folder; a folder of anything other than a checkpoint is more likely a mistake.
///
/// # Errors
/// If it cannot be written there, overlaps the input or must not be replaced.
pub fn check_output(
    input: Option<&Path>,
    is_folder: bool,
    path: &Path,
    force: bool,
) -> Result<(), CheckpointError> {
    if let Some(input) = input {
        check_apart(input, path)?;
    }
    tempfile::tempfile_in(folder_of(path)).map_err(CheckpointError::write(path))?;
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    if !force {
        return Err(CheckpointError::Exists(path.to_owned()));
    }
    let empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    let (fine, expected) = match is_folder {
        true => {
            let has_index = path.join(INDEX).is_file();
            let fine =
                path.is_dir() && (empty() || has_index || !safetensors_files(path)?.is_empty());
            (fine, "a checkpoint folder")
        }
        false => (path.is_file(), "a file"),
    };
    match fine {
        true => Ok(()),
        false => Err(CheckpointError::NotReplaceable { path: path.to_owned(), expected }),
    }
}

/// Refuses to write over an input or into it.
///
/// # Errors
/// If the output is the input, or one is inside the other.
pub fn check_apart(input: &Path, path: &Path) -> Result<(), CheckpointError> {
    let input = fs::canonicalize(input).map_err(CheckpointError::read(input))?;
    let folder = fs::canonicalize(folder_of(path)).map_err(CheckpointError::write(path))?;
    let output = match fs::canonicalize(path) {
        Ok(output) => output,
        Err(_) => folder.join(path.file_name().unwrap_or_default()),
    };
    let inside = input.is_dir() && output.starts_with(&input);
    if inside || output == input || input.starts_with(&output) {
        return Err(CheckpointError::Overlap(path.to_owned()));
    }
    Ok(())
}
