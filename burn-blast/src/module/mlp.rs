//! The two-layer feed-forward block of GPT- and BERT-style models.

use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::MlpActivation;
use super::linear::{BlockSparseLinear, BlockSparseLinearConfig, fuses_products};
use crate::backends::is_host;
use crate::functions::{MlpPatterns, by_rows, mlp};

/// Configuration of a [`BlockSparseMlp`].
#[derive(Config, Debug)]
pub struct BlockSparseMlpConfig {
    /// Size of the model features.
    pub d_model: usize,
    /// Size of the hidden features.
    pub d_ff: usize,
    /// Side of a block: 8, 16, 32, 64 or 128.
    #[config(default = 32)]
    pub block_size: usize,
    /// Share of blocks that are absent at the start.
    #[config(default = 0.0)]
    pub sparsity: f64,
    /// Whether the two layers have a bias.
    #[config(default = true)]
    pub bias: bool,
    /// Activation between the layers.
    #[config(default = "MlpActivation::Gelu")]
    pub activation: MlpActivation,
    /// Seed that selects the kept blocks if `sparsity` is above 0.
    #[config(default = 0)]
    pub seed: u64,
}

impl BlockSparseMlpConfig {
    /// Initialises the block.
    ///
    /// # Panics
    /// If a size, the block size or the sparsity is not valid.
    pub fn init(&self, device: &Device) -> BlockSparseMlp {
        let layer = |d_input, d_output, seed| {
            BlockSparseLinearConfig::new(d_input, d_output)
                .with_block_size(self.block_size)
                .with_sparsity(self.sparsity)
                .with_bias(self.bias)
                .with_seed(self.seed.wrapping_add(seed))
                .init(device)
        };
        BlockSparseMlp {
            up: layer(self.d_model, self.d_ff, 0),
            down: layer(self.d_ff, self.d_model, 1),
            activation: self.activation,
        }
    }
}

/// `down(activation(up(x)))` with two block-sparse layers.
#[derive(Module, Debug)]
pub struct BlockSparseMlp {
    /// `[d_model, d_ff]`.
    pub up: BlockSparseLinear,
    /// `[d_ff, d_model]`.
    pub down: BlockSparseLinear,
    #[module(skip)]
    pub(super) activation: MlpActivation,
}

impl BlockSparseMlp {
    /// Applies the block.
    ///
    /// # Shapes
    /// - `input`: `[.., d_model]`
    /// - output: `[.., d_model]`
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        if !self.fuses(&input) {
            return self.down.forward(self.activation.forward(self.up.forward(input)));
        }
        let patterns = MlpPatterns {
            up: self.up.pattern().clone(),
            down: self.down.pattern().clone(),
            activation: self.activation,
        };
        let layers = [&self.up, &self.down];
        let [up, down] = layers.map(|layer| layer.weight.values());
        let [up_bias, down_bias] = layers.map(|layer| match &layer.bias {
            Some(bias) => bias.val(),
            None => {
                let features = [layer.pattern().shape().cols()];
                Tensor::zeros(features, (&input.device(), input.dtype()))
            }
        });
        by_rows(input, patterns.up.shape().rows(), patterns.down.shape().cols(), |rows| {
            mlp(rows, up, up_bias, down, down_bias, &patterns)
        })
    }

    /// Whether the two products can be one operation that is faster. With a backward pass it is slower on GPUs, where
    /// Burn fuses the backward pass of the activation, and where no weight needs a gradient, since the operation
    /// computes all.
    fn fuses<const D: usize>(&self, input: &Tensor<D>) -> bool {
        let (device, layers) = (input.device(), [&self.up, &self.down]);
        let trains = || layers.iter().any(|layer| layer.weight.values().is_require_grad());
        (!device.is_autodiff() || is_host(&device) && trains()) && fuses_products(&layers, input)
    }
}
