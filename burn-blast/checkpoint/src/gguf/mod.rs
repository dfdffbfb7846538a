//! GGUF files, the format of llama.cpp, unpacked into a folder as Hugging Face lays it out.
//!
//! A GGUF file holds settings, tokenizer and quantised weights under names of its own. [`unpack`] writes what the rest of
//! the crate reads: `config.json`, `tokenizer.json`, and the weights in single precision, as llama.cpp computes with them.
//! Container and quantisation are read by the crate `anamnesis`; names, settings and the order of rows follow
//! `convert_hf_to_gguf.py` of llama.cpp, read backwards.

mod metadata;
mod settings;
mod tensors;
mod tokenizer;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use anamnesis::ParseLimits;
use serde_json::Value;

use crate::CheckpointError;
use crate::atomic::TemporaryFolder;
use crate::checkpoint::SINGLE;
use crate::json;
use crate::rewrite::write_safetensors;
use metadata::Metadata;

/// First bytes of a GGUF file.
const MAGIC: &[u8; 4] = b"GGUF";

/// A GGUF file as a folder with `config.json`, tokenizer and weights, which goes with this value.
#[derive(Debug)]
pub struct Unpacked {
    folder: TemporaryFolder,
    file_bytes: u64,
}

impl Unpacked {
    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Bytes of the GGUF file.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }
}

/// Whether a path is a GGUF file.
pub fn is_gguf(path: &Path) -> bool {
    let mut first = [0; 4];
    path.is_file()
        && File::open(path).and_then(|mut file| file.read_exact(&mut first)).is_ok()
        && first == *MAGIC
}

/// Unpacks a GGUF file into a temporary folder of the system, which takes four bytes for each weight of a quantised file.
///
/// # Errors
/// If the file is damaged or asks for something that is not implemented, or the folder cannot be written.
pub fn unpack(path: &Path) -> Result<Unpacked, CheckpointError> {
    let refuse = |reason: String| CheckpointError::Gguf { path: path.to_owned(), reason };
    let size = fs::metadata(path).map_err(CheckpointError::open(path))?.len();
    // What a file declares cannot take more memory than a few times its size.
    let limits = ParseLimits::unbounded()
        .with_max_single_alloc(size)
        .with_max_total_bytes(size.saturating_mul(8))
        .with_max_item_count(size);
    let file = anamnesis::parse_gguf_with_limits(path, &limits)
        .map_err(|error| refuse(format!("cannot be read: {error}")))?;
    let metadata = Metadata::new(file.metadata());
    let model = settings::Model::read(&metadata, &file).map_err(refuse)?;
    let content = tensors::content(&file, &model).map_err(refuse)?;
    let no_room = |error: io::Error| {
        let (bytes, place) = (content.bytes(), std::env::temp_dir());
        let place = place.display();
        refuse(format!(
            "cannot be unpacked: its {bytes} bytes go to {place}, or where TMPDIR says: {error}"
        ))
    };
    let folder = TemporaryFolder::new().map_err(no_room)?;
    let write = |name: &str| CheckpointError::write(folder.path().join(name));
    for (name, value) in files(&metadata, &model).map_err(refuse)? {
        let text = match value {
            Value::String(text) => text,
            value => json::text(&value),
        };
        fs::write(folder.path().join(name), text).map_err(write(name))?;
    }
    let name = SINGLE;
    let file = File::create(folder.path().join(name)).map_err(write(name))?;
    write_safetensors(file, &content, &mut |_| {}).map_err(no_room)?;
    Ok(Unpacked { folder, file_bytes: size })
}

/// The other files of the folder. A text is written as it is.
fn files(
    metadata: &Metadata<'_>,
    model: &settings::Model,
) -> Result<Vec<(&'static str, Value)>, String> {
    let tokens = tokenizer::Tokens::read(metadata)?;
    let mut files = vec![
        ("config.json", model.config(metadata)?),
        ("tokenizer.json", tokens.tokenizer(metadata)?),
        ("tokenizer_config.json", tokens.settings(metadata)),
        ("generation_config.json", tokens.generation(metadata)),
    ];
    if let Some(template) = metadata.text("tokenizer.chat_template") {
        files.push(("chat_template.jinja", Value::from(template)));
    }
    Ok(files)
}
