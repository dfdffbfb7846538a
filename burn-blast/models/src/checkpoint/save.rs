//! Writing a model as a folder that Hugging Face's tools read.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use burn::tensor::DType;
use burn_blast::module::AnyLinear;
use burn_blast_checkpoint::format::{FORMAT_VERSION, METADATA_KEY};
use burn_pack::Tensor as Entry;
use burn_store::{ModuleSnapshot, bridge};
use safetensors::{Dtype, View};
use serde_json::{Value, json};

use super::Checkpoint;
use super::names::{ADAPTER, in_file};
use crate::{Config, Error, LayerSizes, Model};

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

    /// As [`save`](Self::save), with what `add` puts into the folder before it gets its name.
    ///
    /// # Errors
    /// Those of `save`, and what `add` returns; there is no folder then.
    pub fn save_with<E: From<Error>>(
        &self,
        model: &Model,
        folder: impl AsRef<Path>,
        form: Form,
        add: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        let folder = folder.as_ref();
        if folder.exists() {
            return Err(Error::Exists { path: folder.to_path_buf() }.into());
        }
        let refuse = |source| Error::File { path: folder.to_path_buf(), source };
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
        let mut builder = tempfile::Builder::new();
        builder.prefix(".model-");
        // As for any new folder: the umask decides, not the secrecy of temporary files.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        let scratch = builder.tempdir_in(parent.unwrap_or(Path::new("."))).map_err(refuse)?;
        for name in BESIDE {
            let from = self.file(name);
            if from.exists() {
                std::fs::copy(from, scratch.path().join(name)).map_err(refuse)?;
            }
        }
        let config = scratch.path().join("config.json");
        std::fs::write(&config, self.config_of(model)?).map_err(refuse)?;
        let weights = scratch.path().join("model.safetensors");
        write_tensors(model, &self.config, &weights, form)?;
        // Written by the crate under a temporary name of its own, secrecy included.
        let permissions = std::fs::metadata(&config).map_err(refuse)?.permissions();
        std::fs::set_permissions(&weights, permissions).map_err(refuse)?;
        add(scratch.path())?;
        std::fs::rename(scratch.path(), folder).map_err(refuse)?;
        // Only now: a folder that could not be renamed is removed.
        let _ = scratch.keep();
        Ok(())
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

fn write_tensors(model: &Model, config: &Config, path: &Path, form: Form) -> Result<(), Error> {
    // Shares the weights.
    let mut copy = model.clone();
    let dense: Vec<_> = copy
        .linears_mut()
        .into_iter()
        .filter(|(_, linear)| form == Form::Dense || matches!(linear, AnyLinear::Dense(_)))
        .map(|(name, linear)| (format!("{name}.weight"), &*linear))
        .collect();
    let mut entries = model.collect(None, None, true);
    // Linear weights are written from here on in the layout of the architecture, whatever the model holds.
    let part = |path: &str, weight: &str| {
        let layer = weight.trim_end_matches(".weight");
        path.strip_prefix(weight).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            || path.strip_prefix(layer).is_some_and(|rest| ADAPTER.contains(&rest))
    };
    for entry in &mut entries {
        entry.name = in_file(&entry.name);
    }
    entries.retain(|entry| !dense.iter().any(|(weight, _)| part(&entry.name, weight)));
    entries.extend(dense.into_iter().map(|(name, linear)| stored(name, linear, config)));
    let views = entries.into_iter().map(|entry| Ok((entry.name.clone(), Stored::new(entry)?)));
    let views = views.collect::<Result<Vec<_>, Error>>()?;
    let metadata = HashMap::from([
        // transformers refuses a file that does not say which framework its layouts are of.
        ("format".to_string(), "pt".to_string()),
        (METADATA_KEY.to_string(), origin(&mut copy, config, form)),
    ]);
    safetensors::serialize_to_file(views, Some(metadata), path)
        .map_err(|error| Error::Format { path: path.to_path_buf(), reason: error.to_string() })
}

/// How packed weights would lie in the file if they were dense, as `blast` reads and writes it.
fn origin(model: &mut Model, config: &Config, form: Form) -> String {
    let packed = model
        .linears_mut()
        .into_iter()
        .filter(|(_, linear)| form == Form::Packed && !matches!(linear, AnyLinear::Dense(_)));
    let weights = packed.map(|(name, _)| format!("{name}.weight"));
    let out_in: Vec<String> = weights.filter(|name| config.family().is_out_in(name)).collect();
    json!({ "version": FORMAT_VERSION, "out_in": out_in }).to_string()
}

/// The dense weight of a layer as the architecture stores it, made when it is written.
fn stored(name: String, linear: &AnyLinear, config: &Config) -> Entry {
    let linear = linear.clone();
    let turned = config.family().is_out_in(&name);
    let mut shape = linear.shape();
    if turned {
        shape.reverse();
    }
    bridge::deferred(name, linear.dtype(), shape.into(), None, move || {
        let weight = linear.to_dense();
        Ok(if turned { weight.transpose().to_data() } else { weight.to_data() })
    })
}

/// An entry on its way into a safetensors file.
struct Stored {
    entry: Entry,
    dtype: Dtype,
}

impl Stored {
    fn new(entry: Entry) -> Result<Self, Error> {
        let dtype = match entry.dtype {
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            DType::I32 => Dtype::I32,
            found => {
                let (name, found) = (entry.name, format!("{found:?}"));
                return Err(Error::Kind { name, found, expected: "f32, f16, bf16 or i32" });
            }
        };
        Ok(Self { entry, dtype })
    }
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        self.entry.shape.as_slice()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // There is no way to return an error from here; Burn panics likewise when a device does not give its data.
        let bytes = self.entry.to_bytes().unwrap_or_else(|error| {
            panic!("the device did not return \"{}\": {error}", self.entry.name)
        });
        Cow::Owned(bytes.to_vec())
    }

    fn data_len(&self) -> usize {
        self.entry.byte_len()
    }
}
