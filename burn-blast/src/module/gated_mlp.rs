//! The gated feed-forward block of Llama-style models.

use burn::config::Config;
use burn::module::Module;
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor};

use crate::{BlockSparseLinear, BlockSparseLinearConfig};

/// Configuration of a [`BlockSparseGatedMlp`].
#[derive(Config, Debug)]
pub struct BlockSparseGatedMlpConfig {
    /// Size of the model features.
    pub d_model: usize,
    /// Size of the hidden features.
    pub d_ff: usize,
    /// Side of a block: 8, 16, 32, 64 or 128.
    #[config(default = 32)]
    pub block_size: usize,
    /// Share of blocks missing from the start.
    #[config(default = 0.0)]
    pub sparsity: f64,
    /// Whether the three layers have a bias.
    #[config(default = false)]
    pub bias: bool,
    /// Which blocks a layer that starts sparse keeps follows from this.
    #[config(default = 0)]
    pub seed: u64,
}

impl BlockSparseGatedMlpConfig {
    /// Initialises the block.
    ///
    /// # Panics
    /// If a size, the block size or the sparsity is not valid.
    pub fn init(&self, device: &Device) -> BlockSparseGatedMlp {
        let layer = |d_input, d_output, seed| {
            BlockSparseLinearConfig::new(d_input, d_output)
                .with_block_size(self.block_size)
                .with_sparsity(self.sparsity)
                .with_bias(self.bias)
                .with_seed(self.seed.wrapping_add(seed))
                .init(device)
        };
        BlockSparseGatedMlp {
            gate: layer(self.d_model, self.d_ff, 0),
            up: layer(self.d_model, self.d_ff, 1),
            down: layer(self.d_ff, self.d_model, 2),
        }
    }
}

/// `down(silu(gate(x)) · up(x))`: SwiGLU with three block-sparse layers.
#[derive(Module, Debug)]
pub struct BlockSparseGatedMlp {
    /// `[d_model, d_ff]`, through the activation.
    pub gate: BlockSparseLinear,
    /// `[d_model, d_ff]`.
    pub up: BlockSparseLinear,
    /// `[d_ff, d_model]`.
    pub down: BlockSparseLinear,
}

impl BlockSparseGatedMlp {
    /// A block of given layers.
    ///
    /// # Panics
    /// If the sizes of the layers do not follow each other.
    pub fn new(gate: BlockSparseLinear, up: BlockSparseLinear, down: BlockSparseLinear) -> Self {
        let shape = |layer: &BlockSparseLinear| layer.pattern().shape();
        assert!(shape(&gate) == shape(&up), "gate and up must have the same size");
        assert!(
            shape(&gate).cols() == shape(&down).rows(),
            "down must take what gate gives: {} features, not {}",
            shape(&gate).cols(),
            shape(&down).rows()
        );
        Self { gate, up, down }
    }

    /// Applies the block.
    ///
    /// # Shapes
    /// - `input`: `[.., d_model]`
    /// - output: `[.., d_model]`
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let gate = silu(self.gate.forward(input.clone()));
        self.down.forward(gate * self.up.forward(input))
    }
}
