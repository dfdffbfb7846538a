//! Loading a model from the files of a checkpoint.

use burn::tensor::{DType, Device, FloatDType};
use burn_blast::io::Pretrained;
use burn_blast_checkpoint::Orientation;
use serde::{Deserialize, Serialize};

use super::Checkpoint;
use crate::builder::{Builder, Source};
use crate::{Config, Error, Model};

/// Buffers that some checkpoints store and models compute themselves: causal masks and rotary frequencies.
const BUFFERS: [&str; 3] = [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"];

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
        let config = self.config.clone();
        let pretrained = Pretrained::open(self.file(""))?
            .rename(|name| self.config.path_in_module(name))?
            .orientation(move |path| config.orientation(path));
        let dtype = self.dtype(&pretrained, device, precision)?;
        let source = Source::Stored(Some(&pretrained));
        let model = self.config.family().build(&mut Builder { source, device })?;
        Ok(pretrained.dtype(dtype).load(model)?)
    }

    /// One type for the whole model: Burn's operations do not mix them.
    fn dtype(
        &self,
        pretrained: &Pretrained,
        device: &Device,
        precision: Precision,
    ) -> Result<DType, Error> {
        let embedding = self.config.family().embedding_name();
        let asked = match precision {
            Precision::F32 => return Ok(DType::F32),
            Precision::F16 => FloatDType::F16,
            Precision::BF16 => FloatDType::BF16,
            Precision::File => match pretrained.dtype_of(embedding) {
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

impl Config {
    /// The path in the module of a tensor of a file, unless the model has no use for it.
    fn path_in_module(&self, name: &str) -> Option<String> {
        let path = self.family().path_in_module(name);
        let unused = BUFFERS.iter().any(|end| path.ends_with(end))
            || (self.is_tied() && path == "lm_head.weight");
        (!unused).then_some(path)
    }

    /// How a file has the dense weight at a path of the module.
    pub(super) fn orientation(&self, path: &str) -> Orientation {
        match self.family().is_out_in(path) {
            true => Orientation::OutIn,
            false => Orientation::InOut,
        }
    }
}
