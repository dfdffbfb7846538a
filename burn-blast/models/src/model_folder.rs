//! Folders as Hugging Face publishes them, read into models and written back: configuration, names and the files beside
//! the weights, which [`burn_blast::io`] reads and writes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{DType, Device, FloatDType};
use burn_blast::io::{Export, IoError, Pretrained};
use burn_blast_checkpoint::atomic::AtomicFolder;
use burn_blast_checkpoint::gguf::{self, Unpacked};
use burn_blast_checkpoint::{Checkpoint, LFS_POINTER, Orientation, copy_rest, json};
use burn_blast_kernels::pattern::fnv1a;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::builder::{Builder, Source};
use crate::families::{unwrapped, whole};
use crate::{Error, LayerSizes, Model, ModelConfig, Tokenizer};

/// Buffers that some checkpoints store and models compute themselves: causal masks and rotary frequencies.
const BUFFERS: [&str; 3] = [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"];

/// Files that are not copied: `config.json` is written, the others describe an earlier training run.
const NOT_COPIED: [&str; 8] = [
    "config.json",
    "recover.json",
    "ledger.jsonl",
    "loss.svg",
    "training.svg",
    "kept.svg",
    "report.html",
    "report.json",
];

/// Weight of the output layer.
const HEAD: &str = "lm_head.weight";

/// Data type of a model's weights and features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// The checkpoint's, if the device has it, otherwise f32.
    #[default]
    File,
    /// 32 bits.
    F32,
    /// 16 bits, IEEE.
    F16,
    /// 16 bits with the range of 32.
    #[cfg_attr(feature = "clap", value(name = "bf16"))]
    BF16,
}

impl Precision {
    /// The precision of a model of this data type.
    pub fn of(dtype: DType) -> Self {
        match dtype {
            DType::F16 => Self::F16,
            DType::BF16 => Self::BF16,
            _ => Self::F32,
        }
    }

    /// Its data type; of [`File`](Self::File), single precision.
    #[cfg(feature = "calibrate")]
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
            Self::File | Self::F32 => DType::F32,
        }
    }

    /// Whether a device has it.
    pub fn is_on(self, device: &Device) -> bool {
        self.on(device, DType::F32).is_ok()
    }

    /// The data type on a device of a model that a file has as `stored`.
    ///
    /// # Errors
    /// If the device does not have what is asked for.
    pub(crate) fn on(self, device: &Device, stored: DType) -> Result<DType, Error> {
        let asked = match (self, stored) {
            (Self::F16, _) | (Self::File, DType::F16) => FloatDType::F16,
            (Self::BF16, _) | (Self::File, DType::BF16) => FloatDType::BF16,
            _ => return Ok(DType::F32),
        };
        match (device.supports_dtype(asked), self) {
            (true, _) => Ok(asked.into()),
            (false, Self::File) => Ok(DType::F32),
            (false, _) => {
                let found = format!("{asked:?}");
                Err(Error::setting("dtype", found, "one that the device has, such as F32"))
            }
        }
    }
}

/// How block-sparse weights are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Whole, zero where no block is kept, adapters merged: any program that knows the architecture reads the folder.
    Dense,
    /// Packed: [`ModelFolder::load`] reads the folder, and the files are as small as the weights are sparse.
    Packed,
}

/// A folder that holds a model, its configuration read and checked.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    /// Without one there are no weights yet.
    path: Option<PathBuf>,
    /// What keeps the folder, if it is one of an unpacked GGUF file.
    unpacked: Option<Arc<Unpacked>>,
    json: Value,
    config: ModelConfig,
    stop: BTreeSet<u32>,
}

impl ModelFolder {
    /// Reads the configuration; weights are read by [`load`](Self::load). A GGUF file is unpacked first, to a temporary
    /// folder that is there as long as this value and its clones.
    ///
    /// # Errors
    /// If there is no `config.json`, or it asks for something that is not implemented, or a GGUF file cannot be unpacked.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        if gguf::is_gguf(path) {
            let unpacked = Arc::new(gguf::unpack(path).map_err(IoError::from)?);
            return Ok(Self { unpacked: Some(unpacked.clone()), ..Self::open(unpacked.path())? });
        }
        if path.is_file() {
            return Err(Error::NoFolder(path.to_path_buf()));
        }
        let path = path.to_path_buf();
        let file = path.join("config.json");
        let mut folder = Self::new(read_json(&file)?.ok_or(Error::MissingFile(file))?)?;
        let generation = read_json(&path.join("generation_config.json"))?;
        // What is made for generation wins, as in transformers.
        if let Some(stop) = generation.as_ref().and_then(end_tokens) {
            folder.stop = stop;
        }
        Ok(Self { path: Some(path), ..folder })
    }

    /// What a folder with this `config.json` would be, without weights; [`ModelConfig::init`] draws some. Its tokens
    /// are bytes.
    ///
    /// # Errors
    /// If the configuration asks for something that is not implemented.
    pub fn new(json: Value) -> Result<Self, Error> {
        let config = ModelConfig::parse(&json)?;
        let stop = end_tokens(&json).unwrap_or_default();
        Ok(Self { path: None, unpacked: None, json, config, stop })
    }

    /// A file of the folder, if there is a folder.
    fn file(&self, name: &str) -> PathBuf {
        self.path.as_ref().map_or_else(PathBuf::new, |path| path.join(name))
    }

    /// The folder, of a GGUF file the one it was unpacked to; none if there is a configuration alone.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Bytes of its weights, or of the GGUF file; none if there is a configuration alone.
    ///
    /// # Errors
    /// If a file is missing or damaged.
    pub fn bytes(&self) -> Result<Option<u64>, Error> {
        Ok(match (&self.unpacked, &self.path) {
            (Some(unpacked), _) => Some(unpacked.file_bytes()),
            (None, Some(path)) => Some(Checkpoint::open(path).map_err(IoError::from)?.bytes()),
            (None, None) => None,
        })
    }

    /// Architecture and sizes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Tokens that end a text.
    pub fn stop(&self) -> &BTreeSet<u32> {
        &self.stop
    }

    /// The tokenizer of the folder. If there is none and the vocabulary has 256 tokens, each byte is a token.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        match &self.path {
            Some(path) => Tokenizer::open(path, self.config.vocabulary()),
            None => Ok(Tokenizer::Bytes),
        }
    }

    /// Data type of the stored embedding, which stands for all weights.
    ///
    /// # Errors
    /// If a file is missing or damaged.
    pub fn precision(&self) -> Result<Precision, Error> {
        let name = |name: &str| Some(self.config.family().path_in_module(unwrapped(name)));
        let pretrained = Pretrained::open(self.file(""))?.rename(name)?;
        let dtype = pretrained.dtype_of(self.config.family().embedding_name());
        Ok(Precision::of(dtype.unwrap_or(DType::F32)))
    }

    /// A number that tells models apart: of the settings, and of the weights as [`Checkpoint::fingerprint`] sees them.
    ///
    /// # Errors
    /// If a file is missing or damaged.
    pub fn fingerprint(&self) -> Result<u64, Error> {
        let weights = Checkpoint::open(self.file("")).map_err(IoError::from)?.fingerprint();
        let settings = format!("{:?}", self.config);
        Ok(fnv1a(settings.into_bytes().into_iter().chain(weights.to_le_bytes())))
    }

    /// Loads the model.
    ///
    /// Files are mapped and tensors are read one by one, so no second copy of the checkpoint is held.
    ///
    /// # Errors
    /// If a file is missing or damaged, or holds other tensors than the configuration calls for.
    pub fn load(&self, device: &Device, precision: Precision) -> Result<Model, Error> {
        let (config, pretrained) = self.open_weights(device, precision)?;
        let source = Source::Stored(&pretrained);
        let model = config.family().build(&mut Builder { source, device })?;
        Ok(pretrained.load(model)?)
    }

    /// The weights under their names in the module, and the configuration that they belong to.
    pub(crate) fn open_weights(
        &self,
        device: &Device,
        precision: Precision,
    ) -> Result<(ModelConfig, Pretrained), Error> {
        let all = Pretrained::open(self.file(""))?
            .rename(|name| Some(self.config.family().path_in_module(unwrapped(name))))?;
        let config = match self.config.is_tied() && self.has_own_head(&all) {
            true => self.config.clone().untied(),
            false => self.config.clone(),
        };
        let named = all.rename(|name| config.path_in_module(name))?;
        let dtype = self.dtype(&named, device, precision)?;
        let of_module = config.clone();
        let pretrained = named.orientation(move |path| of_module.orientation(path));
        Ok((config, pretrained.dtype(dtype)))
    }

    /// Whether a file with a tied output layer has one that differs from the embedding, as after training it alone. It
    /// counts then, as in transformers.
    fn has_own_head(&self, pretrained: &Pretrained) -> bool {
        let embedding = pretrained.tensor(self.config.family().embedding_name());
        match (pretrained.tensor(HEAD), embedding) {
            (Some(head), Some(embedding)) => {
                (head.dtype(), head.bytes()) != (embedding.dtype(), embedding.bytes())
            }
            (Some(_), None) => false,
            (None, _) => pretrained.tensor(&format!("{HEAD}.values")).is_some(),
        }
    }

    /// One type for the whole model: Burn's operations do not mix them.
    fn dtype(
        &self,
        pretrained: &Pretrained,
        device: &Device,
        precision: Precision,
    ) -> Result<DType, Error> {
        let stored = pretrained.dtype_of(self.config.family().embedding_name());
        precision.on(device, stored.unwrap_or(DType::F32))
    }

    /// Writes `model`, which was loaded from this folder, to a new folder, with the other files of this one but those
    /// that hold weights.
    ///
    /// The folder gets its name when everything is in it. Tensors leave the device one by one.
    ///
    /// A [compacted](Model::compact) model is written with its sizes if all layers have the same heads and, in a GPT-2, every
    /// head. Hidden features may differ: `intermediate_size`, in a GPT-2 `n_inner`, is then a list with a number for each
    /// layer, as in Gemma 3n.
    ///
    /// # Errors
    /// If `folder` exists, or cannot be written, or `config.json` has no place for the model's sizes.
    pub fn save(&self, model: &Model, folder: impl AsRef<Path>, form: Form) -> Result<(), Error> {
        self.save_with(model, folder, form, false, |_| Ok(()))
    }

    /// As [`save`](Self::save), with what `add` writes into the folder before it appears. `replace`: whether a folder
    /// that exists may be replaced.
    ///
    /// # Errors
    /// As for `save`, or if `add` fails; there is no folder then.
    pub fn save_with(
        &self,
        model: &Model,
        folder: impl AsRef<Path>,
        form: Form,
        replace: bool,
        add: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let folder = folder.as_ref();
        let config = self.config_of(model)?;
        let export = Export::new(model).replace(replace);
        let export = export.orientation(|name| self.config.orientation(name));
        let export = if form == Form::Dense { export.dense() } else { export };
        export.save(folder, |staged| {
            self.write_rest(staged, config)?;
            add(staged.path())
        })
    }

    /// Writes the files of a new folder that are not weights.
    pub(crate) fn write_rest(&self, staged: &AtomicFolder, config: String) -> Result<(), Error> {
        if let Some(from) = &self.path {
            copy_rest(from, &NOT_COPIED.map(str::to_owned), staged).map_err(IoError::from)?;
        }
        let path = staged.path().join("config.json");
        std::fs::write(&path, config).map_err(Error::file(path))
    }

    /// The configuration as it was, but for the precision and for what was compacted.
    fn config_of(&self, model: &Model) -> Result<String, Error> {
        let sizes = model.sizes();
        let heads = |one: &LayerSizes| (one.heads, one.kv_heads);
        if sizes.iter().any(|one| heads(one) != heads(&sizes[0])) {
            let mut sizes: Vec<String> = sizes.iter().map(LayerSizes::to_string).collect();
            sizes.dedup();
            let reason = format!("its layers have {}", sizes.join(", then "));
            return Err(Error::Uneven(reason));
        }
        let is_tied = model.family().head().is_none();
        self.config_with(Some(&sizes), is_tied, model.dtype())
    }

    /// The configuration with other sizes of the layers, if they are given, and another precision.
    pub(crate) fn config_with(
        &self,
        sizes: Option<&[LayerSizes]>,
        is_tied: bool,
        dtype: DType,
    ) -> Result<String, Error> {
        let mut json = self.json.clone();
        if let Some(sizes) = sizes {
            self.config.family().write_sizes(sizes, &mut json)?;
        }
        if self.config.is_tied() && !is_tied {
            json["tie_word_embeddings"] = Value::from(false);
        }
        let name = match dtype {
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            _ => "float32",
        };
        // The older spelling, unless the file has the newer one: every version of transformers reads it.
        let key = if json.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
        json[key] = Value::from(name);
        Ok(json::text(&json))
    }
}

impl ModelConfig {
    /// The path in the module of a tensor of a file, unless the model has no use for it.
    fn path_in_module(&self, name: &str) -> Option<String> {
        let path = self.family().path_in_module(unwrapped(name));
        let unused =
            BUFFERS.iter().any(|end| path.ends_with(end)) || (self.is_tied() && path == HEAD);
        (!unused).then_some(path)
    }

    /// How a file has the dense weight at a path of the module.
    pub(crate) fn orientation(&self, path: &str) -> Orientation {
        match self.family().is_out_in(path) {
            true => Orientation::OutIn,
            false => Orientation::InOut,
        }
    }
}

/// The token or tokens under `eos_token_id`.
fn end_tokens(json: &Value) -> Option<BTreeSet<u32>> {
    let token = |value: &Value| whole(value).and_then(|token| u32::try_from(token).ok());
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
        Err(error) => return Err(Error::file(path)(error)),
    };
    json::parse(&text).map(Some).map_err(|error| match text.starts_with(LFS_POINTER) {
        true => Error::unusable(path, "a pointer of git-lfs: run `git lfs pull` in its folder"),
        false => Error::unusable(path, error),
    })
}
