//! A model part by part, for models larger than memory.

use std::path::Path;

use burn::tensor::{DType, Device};
use burn_blast::io::{Export, IoError, Pretrained};
use burn_blast_checkpoint::name_parts;

use crate::builder::{Builder, Source};
use crate::{Error, Model, ModelConfig, ModelFolder, Precision};

/// What a part holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// What the first layer is fed with.
    Embedding,
    /// One layer.
    Layer(usize),
    /// What is in no layer, the embedding included.
    Outer,
}

impl Part {
    /// Whether a parameter of this name belongs to it.
    fn holds(self, name: &str) -> bool {
        match (self, layer_of(name)) {
            (Self::Layer(wanted), Some(layer)) => layer == wanted as u64,
            (Self::Embedding, None) => !name.starts_with("lm_head."),
            (Self::Outer, None) => true,
            _ => false,
        }
    }
}

/// Number of the layer that a parameter is in.
fn layer_of(name: &str) -> Option<u64> {
    name_parts(name).into_iter().find_map(Result::ok)
}

/// A folder whose model is loaded in parts.
pub(crate) struct Parts {
    config: ModelConfig,
    pretrained: Pretrained,
    device: Device,
}

impl Parts {
    /// Opens a folder.
    pub(crate) fn open(
        folder: &ModelFolder,
        device: &Device,
        precision: Precision,
    ) -> Result<Self, Error> {
        let (config, pretrained) = folder.open_weights(device, precision)?;
        Ok(Self { config, pretrained, device: device.clone() })
    }

    /// Refuses tensors of layers that the model does not have, which no part holds.
    pub(crate) fn check(&self, layers: usize) -> Result<(), Error> {
        let is_beyond = |name: &&str| layer_of(name).is_some_and(|layer| layer >= layers as u64);
        match self.pretrained.names().find(is_beyond) {
            Some(name) => Err(IoError::Unknown { name: name.to_owned() }.into()),
            None => Ok(()),
        }
    }

    /// The model without any weights. Most of what asks it for something would make some up; its names may be asked for.
    pub(crate) fn skeleton(&self) -> Result<Model, Error> {
        let source = Source::Stored(&self.pretrained);
        self.config.family().build(&mut Builder { source, device: &self.device })
    }

    /// The model with the weights of one part.
    pub(crate) fn load(&self, part: Part) -> Result<Model, Error> {
        Ok(self.pretrained.load_part(self.skeleton()?, |name| part.holds(name))?)
    }

    /// Writes a part of a model to a file.
    pub(crate) fn write(
        &self,
        model: &Model,
        part: Part,
        dtype: DType,
        file: &Path,
    ) -> Result<(), Error> {
        let export = Export::new(model).only(|name| part.holds(name)).dtype(dtype);
        Ok(export.orientation(|name| self.config.orientation(name)).write(file)?)
    }
}
