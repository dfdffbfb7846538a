//! Writing a model as a folder that Hugging Face's tools read.

use std::path::Path;

use burn::tensor::DType;
use burn_blast::io::Export;
use serde_json::Value;

use super::Checkpoint;
use crate::{Error, LayerSizes, Model};

/// Copied if the folder the model came from has them.
const BESIDE: [&str; 7] = [
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// How block-sparse weights are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Whole, zero where no block is kept, adapters merged: any program that knows the architecture reads the folder.
    Dense,
    /// Packed: [`Checkpoint::load`] reads the folder, and the files are as small as the weights are sparse.
    Packed,
}

impl Checkpoint {
    /// Writes `model`, which was loaded from this checkpoint, to a new folder, with configuration and tokenizer.
    ///
    /// The folder gets its name when everything is in it. Tensors leave the device one by one.
    ///
    /// A [compacted](Model::compact) model is written with its sizes if all layers have the same and, in a GPT-2, every
    /// head.
    ///
    /// # Errors
    /// If `folder` exists, or cannot be written, or `config.json` has no place for the model's sizes.
    pub fn save(&self, model: &Model, folder: impl AsRef<Path>, form: Form) -> Result<(), Error> {
        self.save_with(model, folder, form, |_| Ok(()))
    }

    /// As [`save`](Self::save), with what `add` writes into the folder before it appears.
    ///
    /// # Errors
    /// As for `save`, or if `add` fails; there is no folder then.
    pub fn save_with(
        &self,
        model: &Model,
        folder: impl AsRef<Path>,
        form: Form,
        add: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let folder = folder.as_ref();
        if folder.exists() {
            return Err(Error::Exists { path: folder.to_path_buf() });
        }
        let config = self.config_of(model)?;
        let export = Export::new(model).orientation(|name| self.config.orientation(name));
        let export = if form == Form::Dense { export.dense() } else { export };
        export.save(folder, |staged| {
            let staged = staged.path();
            for name in BESIDE {
                let from = self.file(name);
                if from.exists() {
                    std::fs::copy(from, staged.join(name)).map_err(Error::file(folder))?;
                }
            }
            std::fs::write(staged.join("config.json"), config).map_err(Error::file(folder))?;
            add(staged)
        })
    }

    /// Takes over the sizes of the layers, if they have all the same and the configuration has a place for them.
    fn resize(&self, json: &mut Value, layers: &[LayerSizes]) -> Result<(), Error> {
        let Some(first) = layers.first() else { return Ok(()) };
        if layers.iter().any(|layer| layer != first) {
            let mut sizes: Vec<String> = layers.iter().map(LayerSizes::to_string).collect();
            sizes.dedup();
            let reason = format!("its layers have {}", sizes.join(", then "));
            return Err(Error::Uneven { reason });
        }
        self.config.family().write_sizes(first, json)
    }

    /// The configuration as it was, but for the precision and for what was compacted.
    fn config_of(&self, model: &Model) -> Result<String, Error> {
        let mut json = self.json.clone();
        self.resize(&mut json, &model.sizes())?;
        let name = match model.dtype() {
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            _ => "float32",
        };
        // The older spelling, unless the file has the newer one: every version of transformers reads it.
        let key = if json.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
        json[key] = Value::from(name);
        serde_json::to_string_pretty(&json)
            .map_err(|error| Error::Json { path: "config.json".into(), reason: error.to_string() })
    }
}
