//! A small Llama-style language model over bytes, with dense or block-sparse MLPs.

use burn::module::{Module, Param};
use burn::nn;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::activation::{silu, softmax};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_blast::PatternError;
use burn_blast::module::{BlockSparseGatedMlp, BlockSparseLinear};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::args::Config;
use crate::data::Batch;

/// Tokens are bytes.
pub const VOCABULARY: usize = 256;

/// Spread of the embedding at the start, as in GPT-2.
const EMBEDDING_STD: f32 = 0.02;

/// Base of the rotary frequencies, as in Llama.
const ROTARY_BASE: f64 = 10_000.0;

/// Added to the score of a position that must not be seen; large enough to vanish in the softmax, and finite.
const HIDDEN: f32 = -1e9;

/// Byte-level language model: RMSNorm, rotary positions, causal attention, gated MLPs.
#[derive(Module, Debug)]
pub struct Llama {
    embedding: nn::Embedding,
    /// The transformer layers, first to last.
    pub layers: Vec<Layer>,
    norm: nn::RmsNorm,
    head: nn::Linear,
    tables: Tables,
}

/// Attention and MLP, each behind its norm and beside a residual path.
#[derive(Module, Debug)]
pub struct Layer {
    attention_norm: nn::RmsNorm,
    attention: Attention,
    mlp_norm: nn::RmsNorm,
    /// The part of the layer that BLaST prunes.
    pub mlp: Mlp,
}

/// Causal self-attention. Its weights stay dense.
#[derive(Module, Debug)]
pub struct Attention {
    query: nn::Linear,
    key: nn::Linear,
    value: nn::Linear,
    output: nn::Linear,
    heads: usize,
}

/// A gated MLP, `down(silu(gate(x)) · up(x))`, before or after [`Llama::into_sparse`].
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a handful of values, each in its layer")]
pub enum Mlp {
    /// Plain Burn layers.
    Dense(DenseMlp),
    /// Block-sparse layers.
    Sparse(BlockSparseGatedMlp),
}

/// The gated MLP of plain Burn layers.
#[derive(Module, Debug)]
pub struct DenseMlp {
    gate: nn::Linear,
    up: nn::Linear,
    down: nn::Linear,
}

/// What depends on positions only: rotations and the causal mask. Not trained, not saved.
#[derive(Module, Debug)]
pub struct Tables {
    cos: Tensor<2>,
    sin: Tensor<2>,
    mask: Tensor<2>,
}

impl Llama {
    /// The dense model whose weights follow from `seed` alone.
    pub fn new(config: &Config, seed: u64, device: &Device) -> Self {
        let mut weights = Weights { random: ChaCha8Rng::seed_from_u64(seed), device };
        let embedding_bound = EMBEDDING_STD * 3f32.sqrt();
        Self {
            embedding: nn::Embedding {
                weight: weights.uniform([VOCABULARY, config.d_model], embedding_bound),
            },
            layers: (0..config.layers).map(|_| Layer::new(config, &mut weights)).collect(),
            norm: weights.norm(config.d_model),
            head: weights.linear(config.d_model, VOCABULARY),
            tables: Tables::new(config, device),
        }
    }

    /// The same function with block-sparse MLPs, still holding every block, in all but the last `dense_last` layers.
    ///
    /// # Errors
    /// If a weight cannot be cut into blocks of this size.
    pub fn into_sparse(mut self, block: usize, dense_last: usize) -> Result<Self, PatternError> {
        let pruned = self.layers.len() - dense_last;
        for layer in &mut self.layers[..pruned] {
            if let Mlp::Dense(dense) = &layer.mlp {
                layer.mlp = Mlp::Sparse(dense.to_sparse(block)?);
            }
        }
        Ok(self)
    }

    /// Scores of the next byte at every position.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, time]`, `time` at most the configured context
    /// - output: `[batch, time, VOCABULARY]`
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let mut x = self.embedding.forward(tokens);
        for layer in &self.layers {
            x = layer.forward(x, &self.tables);
        }
        self.head.forward(self.norm.forward(x))
    }

    /// Mean loss of a batch in nats per byte.
    pub fn loss(&self, batch: &Batch) -> Tensor<1> {
        let logits = self.forward(batch.inputs.clone());
        let [rows, time, classes] = logits.dims();
        let criterion = CrossEntropyLossConfig::new().init(&logits.device());
        criterion.forward(logits.reshape([rows * time, classes]), batch.targets.clone())
    }

    /// The block-sparse MLPs with the names their layers have in the model.
    pub fn sparse_mlps(&self) -> Vec<(usize, &BlockSparseGatedMlp)> {
        let numbered = self.layers.iter().enumerate();
        numbered
            .filter_map(|(index, layer)| match &layer.mlp {
                Mlp::Sparse(mlp) => Some((index, mlp)),
                Mlp::Dense(_) => None,
            })
            .collect()
    }
}

impl Layer {
    fn new(config: &Config, weights: &mut Weights) -> Self {
        Self {
            attention_norm: weights.norm(config.d_model),
            attention: Attention::new(config, weights),
            mlp_norm: weights.norm(config.d_model),
            mlp: Mlp::Dense(DenseMlp::new(config, weights)),
        }
    }

    fn forward(&self, x: Tensor<3>, tables: &Tables) -> Tensor<3> {
        let x = x.clone() + self.attention.forward(self.attention_norm.forward(x), tables);
        x.clone() + self.mlp.forward(self.mlp_norm.forward(x))
    }
}

impl Attention {
    fn new(config: &Config, weights: &mut Weights) -> Self {
        let mut square = || weights.linear(config.d_model, config.d_model);
        Self {
            query: square(),
            key: square(),
            value: square(),
            output: square(),
            heads: config.heads,
        }
    }

    fn forward(&self, x: Tensor<3>, tables: &Tables) -> Tensor<3> {
        let [batch, time, width] = x.dims();
        let head = width / self.heads;
        let split = |x: Tensor<3>| x.reshape([batch, time, self.heads, head]).swap_dims(1, 2);
        let query = tables.rotate(split(self.query.forward(x.clone())));
        let key = tables.rotate(split(self.key.forward(x.clone())));
        let value = split(self.value.forward(x));
        // Scaling the query is cheaper than scaling the scores.
        let query = query.mul_scalar(1.0 / (head as f32).sqrt());
        let mask = tables.mask.clone().slice([0..time, 0..time]);
        let scores = query.matmul(key.swap_dims(2, 3)) + mask.unsqueeze::<4>();
        let mixed = softmax(scores, 3).matmul(value);
        self.output.forward(mixed.swap_dims(1, 2).reshape([batch, time, width]))
    }
}

impl Mlp {
    /// Applies the MLP.
    ///
    /// # Shapes
    /// - `x` and output: `[batch, time, d_model]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Dense(mlp) => mlp.forward(x),
            Self::Sparse(mlp) => mlp.forward(x),
        }
    }
}

impl DenseMlp {
    fn new(config: &Config, weights: &mut Weights) -> Self {
        Self {
            gate: weights.linear(config.d_model, config.d_ff),
            up: weights.linear(config.d_model, config.d_ff),
            down: weights.linear(config.d_ff, config.d_model),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.down.forward(silu(self.gate.forward(x.clone())) * self.up.forward(x))
    }

    fn to_sparse(&self, block: usize) -> Result<BlockSparseGatedMlp, PatternError> {
        let pack = |linear| BlockSparseLinear::from_linear(linear, block);
        Ok(BlockSparseGatedMlp::new(pack(&self.gate)?, pack(&self.up)?, pack(&self.down)?))
    }
}

impl Tables {
    fn new(config: &Config, device: &Device) -> Self {
        let (time, half) = (config.context, config.d_model / config.heads / 2);
        let angle = |index: usize| {
            let (position, pair) = (index / half, index % half);
            position as f64 * ROTARY_BASE.powf(-(pair as f64) / half as f64)
        };
        let table = |wave: fn(f64) -> f64| {
            let values: Vec<f32> =
                (0..time * half).map(|index| wave(angle(index)) as f32).collect();
            Tensor::from_data(TensorData::new(values, [time, half]), device)
        };
        let hidden = |index: usize| if index % time > index / time { HIDDEN } else { 0.0 };
        let mask: Vec<f32> = (0..time * time).map(hidden).collect();
        Self {
            cos: table(f64::cos),
            sin: table(f64::sin),
            mask: Tensor::from_data(TensorData::new(mask, [time, time]), device),
        }
    }

    /// Turns value `i` and value `i + half` of each head by an angle that grows with the position.
    /// Burn's own `RotaryEncoding` does it by a 2 × 4 matrix product per pair, which is slow on a CPU.
    fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, heads, time, head] = x.dims();
        let half = head / 2;
        let cos = self.cos.clone().slice([0..time, 0..half]).unsqueeze::<4>();
        let sin = self.sin.clone().slice([0..time, 0..half]).unsqueeze::<4>();
        let first = x.clone().slice([0..batch, 0..heads, 0..time, 0..half]);
        let second = x.slice([0..batch, 0..heads, 0..time, half..head]);
        let turned = first.clone() * cos.clone() - second.clone() * sin.clone();
        Tensor::cat(vec![turned, second * cos + first * sin], 3)
    }
}

/// Draws first weights on the host, so that every backend starts from the same ones.
struct Weights<'a> {
    random: ChaCha8Rng,
    device: &'a Device,
}

impl Weights<'_> {
    /// A layer without bias, drawn as `nn::Linear` draws it.
    fn linear(&mut self, d_input: usize, d_output: usize) -> nn::Linear {
        let bound = 1.0 / (d_input as f32).sqrt();
        nn::Linear { weight: self.uniform([d_input, d_output], bound), bias: None }
    }

    fn norm(&mut self, width: usize) -> nn::RmsNorm {
        nn::RmsNormConfig::new(width).init(self.device)
    }

    fn uniform(&mut self, shape: [usize; 2], bound: f32) -> Param<Tensor<2>> {
        let count = shape[0] * shape[1];
        let values: Vec<f32> =
            (0..count).map(|_| self.random.random_range(-bound..bound)).collect();
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), self.device))
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    fn tiny() -> Config {
        Config {
            d_model: 16,
            d_ff: 32,
            layers: 2,
            heads: 2,
            context: 8,
            batch: 2,
            block: 8,
            ..Config::default()
        }
    }

    fn logits(model: &Llama, bytes: [i32; 8]) -> Vec<f32> {
        let tokens = Tensor::from_data(TensorData::new(bytes.to_vec(), [1, 8]), &Device::flex());
        model.forward(tokens).into_data().try_to_vec().unwrap()
    }

    #[test]
    fn the_seed_decides_the_weights() {
        let device = Device::flex();
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        let of_seed = |seed| logits(&Llama::new(&tiny(), seed, &device), bytes);
        assert_eq!(of_seed(3), of_seed(3));
        assert_ne!(of_seed(3), of_seed(4));
    }

    #[test]
    fn a_later_byte_changes_no_earlier_score() {
        let model = Llama::new(&tiny(), 0, &Device::flex());
        let one = logits(&model, [1, 2, 3, 4, 5, 6, 7, 8]);
        let two = logits(&model, [1, 2, 3, 4, 5, 6, 7, 9]);
        let last = 7 * VOCABULARY;
        assert_eq!(one[..last], two[..last]);
        assert_ne!(one[last..], two[last..]);
    }

    #[test]
    fn the_sparse_model_starts_as_the_same_function() {
        let config = tiny();
        let dense = Llama::new(&config, 0, &Device::flex());
        let sparse = dense.clone().into_sparse(config.block, config.dense_last).unwrap();
        assert_eq!(sparse.sparse_mlps().len(), 1);
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        for (a, b) in logits(&dense, bytes).iter().zip(logits(&sparse, bytes)) {
            assert!((a - b).abs() < 1e-4, "{a} and {b}");
        }
    }
}
