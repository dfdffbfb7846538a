//! The gated feed-forward block of Llama-style models.

use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::MlpActivation;
use super::linear::{BlockSparseLinear, BlockSparseLinearConfig, fuses_products};
use crate::functions::{GatedPatterns, by_rows, gated_mlp};

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
    /// Share of blocks that are absent at the start.
    #[config(default = 0.0)]
    pub sparsity: f64,
    /// Whether the three layers have a bias.
    #[config(default = false)]
    pub bias: bool,
    /// Activation of the gate.
    #[config(default = "MlpActivation::Silu")]
    pub activation: MlpActivation,
    /// Seed that selects the kept blocks if `sparsity` is above 0.
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
            activation: self.activation,
        }
    }
}

/// `down(activation(gate(x)) · up(x))`: SwiGLU, or GeGLU, with three block-sparse layers.
///
/// Checkpoints of Hugging Face call the layers `gate_proj`, `up_proj` and `down_proj`. To load one into a model whose
/// field is called `mlp`, as there, let [`Pretrained::rename`](crate::io::Pretrained::rename) replace `_proj.` by `.`
/// in the names that contain `.mlp.`.
#[derive(Module, Debug)]
pub struct BlockSparseGatedMlp {
    /// `[d_model, d_ff]`, through the activation.
    pub gate: BlockSparseLinear,
    /// `[d_model, d_ff]`.
    pub up: BlockSparseLinear,
    /// `[d_ff, d_model]`.
    pub down: BlockSparseLinear,
    #[module(skip)]
    pub(super) activation: MlpActivation,
}

impl BlockSparseGatedMlp {
    /// A block of given layers, with SiLU.
    ///
    /// # Panics
    /// If the sizes of the layers do not fit.
    pub fn new(gate: BlockSparseLinear, up: BlockSparseLinear, down: BlockSparseLinear) -> Self {
        let shape = |layer: &BlockSparseLinear| layer.pattern().shape();
        assert!(shape(&gate) == shape(&up), "gate and up must have the same size");
        assert!(
            shape(&gate).cols() == shape(&down).rows(),
            "d_input of down must be d_output of gate: {} features, not {}",
            shape(&gate).cols(),
            shape(&down).rows()
        );
        Self { gate, up, down, activation: MlpActivation::Silu }
    }

    /// Sets the activation of the gate.
    pub fn with_activation(mut self, activation: MlpActivation) -> Self {
        self.activation = activation;
        self
    }

    /// Applies the block.
    ///
    /// # Shapes
    /// - `input`: `[.., d_model]`
    /// - output: `[.., d_model]`
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        if !self.fuses(&input) {
            let gate = self.activation.forward(self.gate.forward(input.clone()));
            return self.down.forward(gate * self.up.forward(input));
        }
        let patterns = GatedPatterns {
            gate: self.gate.pattern().clone(),
            up: self.up.pattern().clone(),
            down: self.down.pattern().clone(),
            activation: self.activation,
        };
        let values = |layer: &BlockSparseLinear| layer.weight.values();
        let (gate, up, down) = (values(&self.gate), values(&self.up), values(&self.down));
        by_rows(input, patterns.gate.shape().rows(), patterns.down.shape().cols(), |rows| {
            gated_mlp(rows, gate, up, down, &patterns)
        })
    }

    /// Whether the three products can be one operation, which has no bias.
    fn fuses<const D: usize>(&self, input: &Tensor<D>) -> bool {
        let layers = [&self.gate, &self.up, &self.down];
        layers.iter().all(|layer| layer.bias.is_none()) && fuses_products(&layers, input)
    }
}
