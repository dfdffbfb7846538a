//! Filling a model from the files of a checkpoint, one tensor at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use burn::tensor::{DType, Device, FloatDType};
use burn_pack::Tensor as Entry;
use burn_store::{
    ApplyError, ApplyResult, FloatCastAdapter, ModuleSnapshot, ModuleStore, PathFilter,
    SafetensorsStore,
};
use serde::{Deserialize, Serialize};

use super::names::{ADAPTER, adapted, in_file, is_ignored, is_packed, to_module};
use super::turn::turn;
use super::{Checkpoint, read_json};
use crate::builder::{Builder, Source};
use crate::{Config, Error, Model};

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
}

impl Checkpoint {
    /// Loads the model.
    ///
    /// Files are mapped and tensors are read one by one, so no second copy of the checkpoint is held.
    ///
    /// # Errors
    /// If a file is missing or damaged, or holds other tensors than the configuration calls for.
    pub fn load(&self, device: &Device, precision: Precision) -> Result<Model, Error> {
        let mut entries = self.entries()?;
        entries.retain(|path, _| !is_ignored(path, self.config.is_tied()));
        let dtype = self.dtype(&entries, device, precision)?;
        let source = Source::Stored(&entries);
        let mut builder = Builder { source, device, dtype };
        let mut model = self.config.family().build(&mut builder)?;
        // The builder has read packed weights.
        let filter = PathFilter::new().with_predicate(|path, _| !is_packed(path));
        let adapter = FloatCastAdapter::to(dtype);
        // Linear layers multiply fastest by weights that lie as they are read: Burn's CPU backend copies a turned one
        // for every product.
        let has_adapter =
            |layer: &str| ADAPTER.iter().any(|end| entries.contains_key(&format!("{layer}{end}")));
        let moved: Vec<(String, String)> = entries
            .keys()
            .filter_map(|path| Some((path.clone(), adapted(path, has_adapter)?)))
            .collect();
        for (from, to) in moved {
            if let Some(mut entry) = entries.remove(&from) {
                entry.name.clone_from(&to);
                entries.insert(to, entry);
            }
        }
        let entries = entries.into_iter().map(|(path, entry)| {
            if self.config.family().is_out_in(&path) { turn(entry) } else { entry }
        });
        let result = model.apply(entries.collect(), Some(filter), Some(Box::new(adapter)), true);
        check(&result, &self.config)?;
        Ok(model)
    }

    /// Every tensor by its path in the module, not read yet.
    fn entries(&self) -> Result<BTreeMap<String, Entry>, Error> {
        let mut all = BTreeMap::new();
        for path in self.files()? {
            if !path.exists() {
                return Err(Error::MissingFile { path });
            }
            let refuse = |error: burn_store::SafetensorsStoreError| Error::Format {
                path: path.clone(),
                reason: error.to_string(),
            };
            let mut store = SafetensorsStore::from_file(&path).remap(to_module(&self.config));
            for (name, entry) in store.get_all_tensors().map_err(refuse)? {
                if all.insert(name.clone(), entry.clone()).is_some() {
                    return Err(Error::Twice { name: in_file(name) });
                }
            }
        }
        Ok(all)
    }

    /// The files that hold tensors.
    fn files(&self) -> Result<Vec<PathBuf>, Error> {
        let whole = self.file("model.safetensors");
        let index = self.file("model.safetensors.index.json");
        if whole.exists() {
            return Ok(vec![whole]);
        }
        let json = read_json(&index)?.ok_or(Error::MissingFile { path: whole })?;
        let parts = json.get("weight_map").and_then(|map| map.as_object());
        let names = parts.map(|map| map.values().map(|name| name.as_str()).collect());
        let names: Option<BTreeSet<&str>> = names.flatten();
        match names {
            Some(names) => Ok(names.into_iter().map(|name| self.file(name)).collect()),
            None => Err(Error::Json {
                path: index,
                reason: "weight_map must give a file name for each tensor".to_string(),
            }),
        }
    }

    /// One type for the whole model: Burn's operations do not mix them.
    fn dtype(
        &self,
        entries: &BTreeMap<String, Entry>,
        device: &Device,
        precision: Precision,
    ) -> Result<DType, Error> {
        let embedding = self.config.family().embedding_name();
        let asked = match precision {
            Precision::F32 => return Ok(DType::F32),
            Precision::F16 => FloatDType::F16,
            Precision::BF16 => FloatDType::BF16,
            Precision::File => match entries.get(embedding).map(|entry| entry.dtype) {
                Some(DType::F16) => FloatDType::F16,
                Some(DType::BF16) => FloatDType::BF16,
                _ => return Ok(DType::F32),
            },
        };
        match (device.supports_dtype(asked), precision) {
            (true, _) => Ok(asked.into()),
            (false, Precision::File) => Ok(DType::F32),
            (false, _) => {
                let found = format!("{asked:?}");
                Err(Error::setting("dtype", found, "one that the device has, such as F32"))
            }
        }
    }
}

/// Turns what did not fit into an error; of several, the most telling.
fn check(result: &ApplyResult, config: &Config) -> Result<(), Error> {
    if let Some(error) = result.errors.first() {
        return Err(refuse(error, config));
    }
    if let Some((path, _)) = result.missing.first() {
        return Err(Error::Missing { name: in_file(path) });
    }
    match result.unused.first() {
        Some(path) => Err(Error::Unexpected { name: in_file(path) }),
        None => Ok(()),
    }
}

fn refuse(error: &ApplyError, config: &Config) -> Error {
    match error {
        ApplyError::ShapeMismatch { path, expected, found } => {
            let (mut found, mut expected) = (found.to_vec(), expected.to_vec());
            // As the file has them: matrices were turned.
            if config.family().is_out_in(path) {
                expected.reverse();
                if found.len() == 2 {
                    found.reverse();
                }
            }
            Error::Shape { name: in_file(path), found, expected }
        }
        ApplyError::DTypeMismatch { path, found, .. } => Error::Kind {
            name: in_file(path),
            found: format!("{found:?}"),
            expected: "floating-point",
        },
        ApplyError::AdapterError { path, message } | ApplyError::LoadError { path, message } => {
            unreadable(path, message)
        }
    }
}

pub(crate) fn unreadable(path: &str, message: &str) -> Error {
    Error::Format { path: PathBuf::from(in_file(path)), reason: message.to_string() }
}
