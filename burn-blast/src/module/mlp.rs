//! The feed-forward blocks: gated as in Llama-style models, or of two layers as in GPT- and BERT-style models.

use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::any_linear::{live_features, whole_blocks};
use super::linear::fuses_products;
use super::{AnyLinear, BlockSparseLinear, BlockSparseLinearConfig, LayerError, MlpActivation};
use crate::backends::is_host;
use crate::functions::{GatedPatterns, MlpPatterns, by_rows, gated_activation, gated_mlp, mlp};

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
    /// If a size, the block size or the sparsity is not valid; [`try_init`](Self::try_init) returns the error instead.
    pub fn init(&self, device: &Device) -> BlockSparseGatedMlp {
        self.try_init(device).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Initialises the block.
    ///
    /// # Errors
    /// If a size, the block size or the sparsity is not valid.
    pub fn try_init(&self, device: &Device) -> Result<BlockSparseGatedMlp, LayerError> {
        let layer = |d_input, d_output, seed| {
            BlockSparseLinearConfig::new(d_input, d_output)
                .with_block_size(self.block_size)
                .with_sparsity(self.sparsity)
                .with_bias(self.bias)
                .with_seed(self.seed.wrapping_add(seed))
                .try_init(device)
        };
        Ok(BlockSparseGatedMlp {
            gate: layer(self.d_model, self.d_ff, 0)?,
            up: layer(self.d_model, self.d_ff, 1)?,
            down: layer(self.d_ff, self.d_model, 2)?,
            activation: self.activation,
        })
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
    activation: MlpActivation,
}

impl BlockSparseGatedMlp {
    /// A block of given layers, with SiLU.
    ///
    /// # Panics
    /// If the sizes of the layers do not fit.
    pub fn new(gate: BlockSparseLinear, up: BlockSparseLinear, down: BlockSparseLinear) -> Self {
        let shape = |layer: &BlockSparseLinear| layer.pattern().shape();
        assert!(shape(&gate) == shape(&up), "gate and up must have the same size");
        assert_fit(&gate, &down);
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
    ///
    /// # Panics
    /// If the last axis of `input` is not `d_model`.
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        if !self.fuses(&input) {
            let (gate, up) = (self.gate.forward(input.clone()), self.up.forward(input));
            let hidden = match is_host(&gate.device()) {
                true => gated_activation(gate, up, self.activation),
                false => self.activation.forward(gate) * up,
            };
            return self.down.forward(hidden);
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

    /// The block without dead hidden features: `gate` or `up` is zero for them, bias included, or `down` reads nothing
    /// of them. One block of features is always kept.
    ///
    /// Outputs are the same up to the order of sums. Layers that shrink are new: compact a model before its optimizer
    /// is attached, or when training is done.
    ///
    /// # Panics
    /// If the layers have different block sizes.
    pub fn compact(&self) -> Self {
        let ([gate, up], down) = compact([&self.gate, &self.up], &self.down);
        Self { gate, up, down, activation: self.activation }
    }

    /// Whether the three products can be one operation, which has no bias.
    fn fuses<const D: usize>(&self, input: &Tensor<D>) -> bool {
        let layers = [&self.gate, &self.up, &self.down];
        layers.iter().all(|layer| layer.bias.is_none()) && fuses_products(&layers, input)
    }
}

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
    /// If a size, the block size or the sparsity is not valid; [`try_init`](Self::try_init) returns the error instead.
    pub fn init(&self, device: &Device) -> BlockSparseMlp {
        self.try_init(device).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Initialises the block.
    ///
    /// # Errors
    /// If a size, the block size or the sparsity is not valid.
    pub fn try_init(&self, device: &Device) -> Result<BlockSparseMlp, LayerError> {
        let layer = |d_input, d_output, seed| {
            BlockSparseLinearConfig::new(d_input, d_output)
                .with_block_size(self.block_size)
                .with_sparsity(self.sparsity)
                .with_bias(self.bias)
                .with_seed(self.seed.wrapping_add(seed))
                .try_init(device)
        };
        Ok(BlockSparseMlp {
            up: layer(self.d_model, self.d_ff, 0)?,
            down: layer(self.d_ff, self.d_model, 1)?,
            activation: self.activation,
        })
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
    activation: MlpActivation,
}

impl BlockSparseMlp {
    /// A block of given layers, with GELU.
    ///
    /// # Panics
    /// If the sizes of the layers do not fit.
    pub fn new(up: BlockSparseLinear, down: BlockSparseLinear) -> Self {
        assert_fit(&up, &down);
        Self { up, down, activation: MlpActivation::Gelu }
    }

    /// Sets the activation between the layers.
    pub fn with_activation(mut self, activation: MlpActivation) -> Self {
        self.activation = activation;
        self
    }

    /// Applies the block.
    ///
    /// # Shapes
    /// - `input`: `[.., d_model]`
    /// - output: `[.., d_model]`
    ///
    /// # Panics
    /// If the last axis of `input` is not `d_model`.
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

    /// The block without dead hidden features, as [`BlockSparseGatedMlp::compact`].
    ///
    /// # Panics
    /// If the layers have different block sizes.
    pub fn compact(&self) -> Self {
        let ([up], down) = compact([&self.up], &self.down);
        Self { up, down, activation: self.activation }
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

fn assert_fit(into: &BlockSparseLinear, down: &BlockSparseLinear) {
    let (found, expected) = (down.pattern().shape().rows(), into.pattern().shape().cols());
    assert!(
        found == expected,
        "d_input of down must be d_output of the layer before: {expected} features, not {found}"
    );
}

/// The layers of a block without dead hidden features, which `into` writes and `down` reads.
fn compact<const N: usize>(
    into: [&BlockSparseLinear; N],
    down: &BlockSparseLinear,
) -> ([BlockSparseLinear; N], BlockSparseLinear) {
    assert!(
        into.iter().all(|layer| layer.pattern().block() == down.pattern().block()),
        "only layers of one block size can be compacted together"
    );
    let any = |layer: &BlockSparseLinear| AnyLinear::Sparse(layer.clone());
    let Some(alive) = live_features(&into.map(any).each_ref(), &any(down)) else {
        return (into.map(Clone::clone), down.clone());
    };
    let into = into.map(|layer| {
        let inputs = vec![true; layer.pattern().shape().rows()];
        whole_blocks(layer, &inputs, &alive)
    });
    let outputs = vec![true; down.pattern().shape().cols()];
    (into, whole_blocks(down, &alive, &outputs))
}
