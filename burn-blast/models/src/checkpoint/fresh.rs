//! Weights to begin training with.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Distribution, Tensor};

use super::{Builder, Checkpoint};
use crate::{Error, Model};

/// Deviation of the matrices, as in GPT-2 and Llama.
const DEVIATION: f64 = 0.02;

impl Checkpoint {
    /// A model of these sizes with weights drawn at random: matrices from a narrow bell, norms at one. The same seed
    /// gives the same model on a device that nothing else draws from meanwhile.
    ///
    /// # Errors
    /// If the sizes contradict each other.
    pub fn fresh(&self, device: &Device, seed: u64) -> Result<Model, Error> {
        let entries = BTreeMap::new();
        let model = self.build(&Builder { entries: &entries, device, dtype: DType::F32 })?;
        device.seed(seed);
        Ok(model.map(&mut Draw))
    }
}

struct Draw;

impl ModuleMapper for Draw {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // Norms are made as they must be, and biases are small.
        if D < 2 {
            return param;
        }
        param.map(|old| {
            let bell = Distribution::Normal(0.0, DEVIATION);
            Tensor::random(old.shape(), bell, &old.device())
        })
    }
}
