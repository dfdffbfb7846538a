//! Models in the form that a processor runs fastest.

use burn::module::Module;
use burn::tensor::DType;
use burn_blast::functions::is_host;
use burn_blast::module::{
    AnyLinear, BlockSparseLinear, BlockSparseWeight, Integer, LayerError, quantize,
};
use burn_blast::{BlockPattern, BlockSize, MatrixShape};

use crate::fine_tune::TrainConfig;
use crate::{Error, Model};

/// Name of the output layer.
const HEAD: &str = "lm_head";

/// Side of the blocks of layers that keep all of them.
const BLOCK: usize = 32;

impl Model {
    /// The model with its dense linear layers as block-sparse ones that keep all blocks. On a processor the kernels of
    /// block-sparse layers are faster than Burn's dense ones at many rows, and at one row in types of 16 bits. Layers that
    /// are block-sparse already are left as they are.
    ///
    /// In a type of 16 bits a tied output layer becomes a layer of its own, which takes memory once more for the embedding:
    /// the model is for running, not for saving.
    ///
    /// # Errors
    /// If a weight is too large for a block pattern.
    pub fn for_host(mut self) -> Result<Self, Error> {
        if self.dtype() != DType::F32 {
            self.untie_head()?;
        }
        self.pack_dense()?;
        Ok(self)
    }

    /// The model with its block-sparse layers in integers, by [`quantize`]. On a host the dense ones too, and a tied
    /// output layer becomes a layer of its own: reading it is most of the work of decoding with a small model. An output layer
    /// has 8 bits in any case, as its errors go straight into the scores. With 4 bits zeros may become other numbers, so
    /// [`compact`](Self::compact) comes before.
    ///
    /// # Errors
    /// If there is nothing to quantise, the device has no such integers, or a weight is too large for a block pattern.
    pub fn to_integers(mut self, integer: Integer) -> Result<Self, Error> {
        if is_host(&self.device()) {
            self.untie_head()?;
            self.pack_dense()?;
        }
        let mut packed = 0;
        for (name, linear) in self.linears_mut() {
            if linear.block_size().is_some() {
                let integer = if name == HEAD { Integer::Int8 } else { integer };
                *linear = quantize(linear.clone(), integer)?;
                packed += 1;
            }
        }
        match packed {
            0 => Err(LayerError::NothingToQuantize.into()),
            _ => Ok(self),
        }
    }

    /// [`for_host`](Self::for_host) for scores at every position of many texts: a tied output layer becomes a layer of its
    /// own in f32 too.
    pub(crate) fn for_many_scores(mut self) -> Result<Self, Error> {
        self.untie_head()?;
        self.for_host()
    }

    /// Makes a tied output layer a packed layer of its own, and returns whether it was tied.
    pub(crate) fn untie_head(&mut self) -> Result<bool, Error> {
        if self.family().head().is_some() {
            return Ok(false);
        }
        let weight = pack(self.family().embedding().transpose())?;
        let head = AnyLinear::Sparse(BlockSparseLinear::new(weight, None));
        self.family_mut().set_head(Some(head));
        Ok(true)
    }

    /// Packs the dense layers with all their blocks, and returns their names. What is frozen stays frozen.
    pub(crate) fn pack_dense(&mut self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for (name, linear) in self.linears_mut() {
            if let AnyLinear::Dense(dense) = linear {
                let weight = dense.weight.val();
                let frozen = weight.device().is_autodiff() && !weight.is_require_grad();
                let mut weight = pack(weight)?;
                if frozen {
                    weight = weight.set_require_grad(false);
                }
                let layer = BlockSparseLinear::new(weight, dense.bias.clone());
                *linear = AnyLinear::Sparse(layer);
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// The layers of a model that are packed only while it is trained, since a processor trains them faster so.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packed {
    /// Names of layers that are dense in files.
    layers: Vec<String>,
    /// Whether the output layer is the embedding in files.
    tied: bool,
}

impl Packed {
    /// Packs what the device trains faster so: the dense layers, and a tied output layer if the MLPs alone are trained.
    pub(crate) fn pack(model: &mut Model, config: &TrainConfig) -> Result<Self, Error> {
        if !is_host(&model.device()) || !config.pack_dense {
            return Ok(Self::default());
        }
        let tied = config.only_mlps && model.untie_head()?;
        Ok(Self { layers: model.pack_dense()?, tied })
    }

    /// Paths in the module of the packed layers of a model, which are not to be pruned.
    pub(crate) fn paths(&self, model: &Model) -> Vec<String> {
        let head = self.tied.then_some(HEAD);
        let names = self.layers.iter().map(String::as_str).chain(head);
        names.map(|name| format!("{}.{name}", model.variant())).collect()
    }

    /// Makes them dense again.
    pub(crate) fn unpack(&self, model: &mut Model) {
        if self.tied {
            model.family_mut().set_head(None);
        }
        let packed = |(name, _): &(String, &mut AnyLinear)| self.layers.contains(name);
        for (_, linear) in model.linears_mut().into_iter().filter(packed) {
            if let AnyLinear::Sparse(layer) = linear {
                *linear = AnyLinear::Dense(layer.clone().into_linear());
            }
        }
    }
}

/// A dense weight with all its blocks.
fn pack(weight: burn::tensor::Tensor<2>) -> Result<BlockSparseWeight, Error> {
    let [rows, cols] = weight.dims();
    let (shape, block) = (MatrixShape::new(rows, cols)?, BlockSize::new(BLOCK)?);
    Ok(BlockSparseWeight::from_dense(weight, BlockPattern::dense(shape, block)))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::ModelConfig;
    use crate::fine_tune::tests::config;
    use crate::generate::to_host;

    #[test]
    fn integers_take_every_linear_layer_and_a_tied_output_layer() {
        let untied = serde_json::json!({
            "model_type": "llama", "vocab_size": 256, "hidden_size": 40, "intermediate_size": 72,
            "num_hidden_layers": 2, "num_attention_heads": 2, "tie_word_embeddings": false,
        });
        let both = [Integer::Int8, Integer::Int4];
        for (config, integer) in [config(), untied].iter().flat_map(|c| both.map(|i| (c, i))) {
            let config = ModelConfig::parse(config).unwrap();
            let model = config.init(&Device::flex(), 3).unwrap();
            let mut small = model.clone().to_integers(integer).unwrap();
            let limit = if integer == Integer::Int8 { 0.05 } else { 0.4 };
            assert!(small.linears_mut().iter().any(|(name, _)| name == HEAD));
            for (name, linear) in small.linears_mut() {
                let layer = linear.as_sparse().expect("every layer is packed");
                let expected = if name == HEAD { Integer::Int8 } else { integer };
                assert_eq!(layer.weight.integer(), Some(expected), "{name}");
                assert_eq!(layer.sparsity(), 0.0, "{name}");
            }
            let text: Vec<u32> = b"a text of some bytes".map(u32::from).to_vec();
            let (mut cache, mut caches) = (model.cache(), small.cache());
            for token in text {
                let scores = |model: &Model, cache: &mut crate::Cache| {
                    to_host(model.forward(model.tokens(&[&[token]]), Some(cache))).unwrap()
                };
                let (expected, found) = (scores(&model, &mut cache), scores(&small, &mut caches));
                let largest = expected.iter().fold(0f32, |largest, score| largest.max(score.abs()));
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found - expected).abs() <= limit * largest, "{found} {expected}");
                }
            }
        }
    }

    #[test]
    fn the_scores_are_the_same_in_either_form() {
        let gpt2 = serde_json::json!({
            "model_type": "gpt2", "vocab_size": 256, "n_embd": 40, "n_head": 4, "n_layer": 2, "n_positions": 64,
        });
        for config in [config(), gpt2] {
            let config = ModelConfig::parse(&config).unwrap();
            for dtype in [DType::F32, DType::BF16] {
                let model = config.init(&Device::flex(), 3).unwrap();
                let model = model.with_precision(crate::Precision::of(dtype)).unwrap();
                let text: Vec<u32> = b"a text of some bytes".map(u32::from).to_vec();
                let tokens = model.tokens(&[&text]);
                let plain = to_host(model.forward(tokens.clone(), None)).unwrap();
                let mut packed = model.for_host().unwrap();
                let is_sparse =
                    |(_, linear): &(String, &mut AnyLinear)| linear.block_size().is_some();
                assert!(packed.linears_mut().iter().all(is_sparse));
                assert_eq!(packed.storage().sparse, 0);
                let found = to_host(packed.forward(tokens, None)).unwrap();
                let limit = if dtype == DType::F32 { 1e-5 } else { 0.04 };
                let largest = plain.iter().fold(0f32, |largest, score| largest.max(score.abs()));
                for (found, expected) in found.iter().zip(&plain) {
                    assert!(
                        (found - expected).abs() <= limit * largest,
                        "{dtype:?}: {found} {expected}"
                    );
                }
            }
        }
    }
}
