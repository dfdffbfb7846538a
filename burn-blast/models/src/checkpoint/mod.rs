//! Folders as Hugging Face publishes them, read into models and written back.
//!
//! | file | content |
//! |---|---|
//! | `config.json` | architecture and sizes |
//! | `model.safetensors` | every tensor |
//! | `model.safetensors.index.json` and the files it lists | the same in parts |
//! | `tokenizer.json` | how text becomes tokens; without it, tokens are bytes |
//! | `generation_config.json` | with which tokens a text ends, if not in `config.json` |
//!
//! Tensors are read and written by [`burn_blast::io`]; here are the configuration, the names of the families and the
//! files beside the weights.

mod load;
mod save;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub use load::Precision;
pub use save::Form;

use crate::{Config, Error, Tokenizer};

/// A folder that holds a model, its configuration read and checked.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Without one there are no weights yet.
    folder: Option<PathBuf>,
    json: Value,
    config: Config,
    stop: BTreeSet<u32>,
}

impl Checkpoint {
    /// Reads the configuration; weights are read by [`load`](Self::load).
    ///
    /// # Errors
    /// If there is no `config.json`, or it asks for something that is not implemented.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, Error> {
        let folder = folder.as_ref().to_path_buf();
        let path = folder.join("config.json");
        let json = read_json(&path)?.ok_or_else(|| Error::MissingFile { path: path.clone() })?;
        let config = Config::parse(&json)?;
        let generation = read_json(&folder.join("generation_config.json"))?;
        // What is made for generation wins, as in transformers.
        let stop = generation.as_ref().and_then(end_tokens).or_else(|| end_tokens(&json));
        Ok(Self { folder: Some(folder), json, config, stop: stop.unwrap_or_default() })
    }

    /// A checkpoint that has a configuration and no weights yet; [`Config::init`] draws some. Its tokens are bytes.
    ///
    /// # Errors
    /// If the configuration asks for something that is not implemented.
    pub fn new(json: Value) -> Result<Self, Error> {
        let config = Config::parse(&json)?;
        let stop = end_tokens(&json).unwrap_or_default();
        Ok(Self { folder: None, json, config, stop })
    }

    /// A file of the folder, if there is a folder.
    fn file(&self, name: &str) -> PathBuf {
        self.folder.as_ref().map_or_else(PathBuf::new, |folder| folder.join(name))
    }

    /// Architecture and sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Tokens that end a text.
    pub fn stop(&self) -> &BTreeSet<u32> {
        &self.stop
    }

    /// The tokenizer of the folder; one token per byte if it has none.
    ///
    /// # Errors
    /// If `tokenizer.json` cannot be read, or is missing and the vocabulary cannot hold all bytes.
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        Tokenizer::open(&self.file("tokenizer.json"), self.config.vocabulary())
    }
}

/// The token or tokens under `eos_token_id`.
fn end_tokens(json: &Value) -> Option<BTreeSet<u32>> {
    let token = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
    match json.get("eos_token_id")? {
        Value::Array(tokens) => Some(tokens.iter().filter_map(token).collect()),
        value => token(value).map(|token| BTreeSet::from([token])),
    }
}

/// A JSON file, or nothing if there is no such file.
fn read_json(path: &Path) -> Result<Option<Value>, Error> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::File { path: path.to_path_buf(), source }),
    };
    let json = serde_json::from_str(&text);
    json.map(Some)
        .map_err(|error| Error::Json { path: path.to_path_buf(), reason: error.to_string() })
}
