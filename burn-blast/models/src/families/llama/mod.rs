//! Llama. Fields are named as in Hugging Face's checkpoints.

mod config;

pub use config::LlamaConfig;

use burn::module::Module;
use burn::nn;
use burn::tensor::activation::silu;
use burn::tensor::{Int, Tensor};
use burn_blast::module::{AnyLinear, BlockSparseGatedMlp};

use crate::attention::{Pass, split_heads};
use crate::builder::Builder;
use crate::compact::{compact_mlp, live_heads};
use crate::families::Family;
use crate::rope::{Rope, Rotation};
use crate::{Error, LayerSizes};

/// Embedding, layers, norm, and the output layer if it is not the embedding.
#[derive(Module, Debug)]
pub struct Llama {
    model: Decoder,
    lm_head: Option<AnyLinear>,
    #[module(skip)]
    rope: Rope,
}

#[derive(Module, Debug)]
struct Decoder {
    embed_tokens: nn::Embedding,
    layers: Vec<Layer>,
    norm: nn::RmsNorm,
}

#[derive(Module, Debug)]
struct Layer {
    input_layernorm: nn::RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: nn::RmsNorm,
    mlp: Mlp,
}

#[derive(Module, Debug)]
struct Attention {
    q_proj: AnyLinear,
    k_proj: AnyLinear,
    v_proj: AnyLinear,
    o_proj: AnyLinear,
    head_dim: usize,
}

#[derive(Module, Debug)]
struct Mlp {
    gate_proj: AnyLinear,
    up_proj: AnyLinear,
    down_proj: AnyLinear,
}

impl Llama {
    pub(crate) fn build(config: &LlamaConfig, builder: &mut Builder) -> Result<Self, Error> {
        let width = config.hidden_size;
        let embed_tokens = builder.embedding(config.vocab_size, width);
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::build(config, builder, &format!("model.layers.{index}")))
            .collect::<Result<_, _>>()?;
        let norm = builder.rms_norm(width, config.rms_norm_eps);
        let head = || builder.linear("lm_head", [width, config.vocab_size], false);
        let lm_head = (!config.tie_word_embeddings).then(head).transpose()?;
        let rope = Rope::new(config.head_dim, config.rope_theta, &config.rope_scaling);
        Ok(Self { model: Decoder { embed_tokens, layers, norm }, lm_head, rope })
    }
}

impl Family for Llama {
    fn embed(&self, tokens: Tensor<2, Int>, _: &Pass) -> Tensor<3> {
        self.model.embed_tokens.forward(tokens)
    }

    fn layer(&self, index: usize, x: Tensor<3>, pass: &mut Pass) -> Tensor<3> {
        let (start, time) = (pass.start, x.dims()[1]);
        let rotation = pass
            .rotation
            .get_or_insert_with(|| self.rope.at(start, time, &x.device(), x.dtype()))
            .clone();
        self.model.layers[index].forward(x, index, &rotation, pass)
    }

    fn layers(&self) -> usize {
        self.model.layers.len()
    }

    fn norm(&self, x: Tensor<3>) -> Tensor<3> {
        self.model.norm.forward(x)
    }

    fn mlp(&self, layer: usize, input: Tensor<3>, pass: &mut Pass) -> Tensor<3> {
        self.model.layers[layer].mlp.forward(input, layer, pass)
    }

    fn sizes(&self) -> Vec<LayerSizes> {
        let sizes = |layer: &Layer| {
            let heads = |linear: &AnyLinear| linear.shape()[1] / layer.self_attn.head_dim;
            LayerSizes {
                hidden: layer.mlp.down_proj.shape()[0],
                heads: heads(&layer.self_attn.q_proj),
                kv_heads: heads(&layer.self_attn.k_proj),
            }
        };
        self.model.layers.iter().map(sizes).collect()
    }

    fn compact(&mut self) {
        for layer in &mut self.model.layers {
            layer.self_attn.compact();
            let mlp = &mut layer.mlp;
            compact_mlp([&mut mlp.gate_proj, &mut mlp.up_proj], &mut mlp.down_proj);
        }
    }

    fn head(&self) -> Option<&AnyLinear> {
        self.lm_head.as_ref()
    }

    fn embedding(&self) -> Tensor<2> {
        self.model.embed_tokens.weight.val()
    }

    fn mlp_layers(&self) -> (&'static [&'static str], &'static str) {
        (&["mlp.gate_proj", "mlp.up_proj"], "mlp.down_proj")
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut AnyLinear)> {
        let mut all = Vec::new();
        for (index, layer) in self.model.layers.iter_mut().enumerate() {
            let (attention, mlp) = (&mut layer.self_attn, &mut layer.mlp);
            let named = [
                ("self_attn.q_proj", &mut attention.q_proj),
                ("self_attn.k_proj", &mut attention.k_proj),
                ("self_attn.v_proj", &mut attention.v_proj),
                ("self_attn.o_proj", &mut attention.o_proj),
                ("mlp.gate_proj", &mut mlp.gate_proj),
                ("mlp.up_proj", &mut mlp.up_proj),
                ("mlp.down_proj", &mut mlp.down_proj),
            ];
            let full = |name| format!("model.layers.{index}.{name}");
            all.extend(named.map(|(name, linear)| (full(name), linear)));
        }
        all.extend(self.lm_head.as_mut().map(|head| ("lm_head".to_string(), head)));
        all
    }
}

impl Layer {
    fn build(config: &LlamaConfig, builder: &mut Builder, path: &str) -> Result<Self, Error> {
        let (width, hidden) = (config.hidden_size, config.intermediate_size);
        let (head_dim, bias) = (config.head_dim, config.attention_bias);
        let query = config.num_attention_heads * head_dim;
        let key = config.num_key_value_heads * head_dim;
        let mut linear =
            |name: &str, shape, bias| builder.linear(&format!("{path}.{name}"), shape, bias);
        let self_attn = Attention {
            q_proj: linear("self_attn.q_proj", [width, query], bias)?,
            k_proj: linear("self_attn.k_proj", [width, key], bias)?,
            v_proj: linear("self_attn.v_proj", [width, key], bias)?,
            o_proj: linear("self_attn.o_proj", [query, width], bias)?,
            head_dim,
        };
        let mlp = Mlp {
            gate_proj: linear("mlp.gate_proj", [width, hidden], config.mlp_bias)?,
            up_proj: linear("mlp.up_proj", [width, hidden], config.mlp_bias)?,
            down_proj: linear("mlp.down_proj", [hidden, width], config.mlp_bias)?,
        };
        Ok(Self {
            input_layernorm: builder.rms_norm(width, config.rms_norm_eps),
            self_attn,
            post_attention_layernorm: builder.rms_norm(width, config.rms_norm_eps),
            mlp,
        })
    }

    fn forward(
        &self,
        x: Tensor<3>,
        index: usize,
        rotation: &Rotation,
        pass: &mut Pass,
    ) -> Tensor<3> {
        let normed = self.input_layernorm.forward(x.clone());
        let x = x + self.self_attn.forward(normed, index, rotation, pass);
        let x = x.clone() + self.mlp.forward(self.post_attention_layernorm.forward(x), index, pass);
        pass.record_output(&x);
        x
    }
}

impl Attention {
    /// Removes dead heads; see [`Model::compact`](crate::Model::compact).
    fn compact(&mut self) {
        let (head, width) = (self.head_dim, vec![true; self.o_proj.shape()[1]]);
        let layers = [&self.q_proj, &self.k_proj, &self.v_proj];
        let live = live_heads(&layers, &self.v_proj.writes(), &self.o_proj, head);
        let Some([queries, groups]) = live else { return };
        self.q_proj = self.q_proj.submatrix(&width, &queries);
        self.k_proj = self.k_proj.submatrix(&width, &groups);
        self.v_proj = self.v_proj.submatrix(&width, &groups);
        self.o_proj = self.o_proj.submatrix(&queries, &width);
    }

    fn forward(
        &self,
        x: Tensor<3>,
        index: usize,
        rotation: &Rotation,
        pass: &mut Pass,
    ) -> Tensor<3> {
        let split = |x| split_heads(x, self.head_dim);
        let query = rotation.apply(split(self.q_proj.forward(x.clone())));
        let keys = rotation.apply(split(self.k_proj.forward(x.clone())));
        let values = split(self.v_proj.forward(x));
        self.o_proj.forward(pass.attend(index, query, keys, values))
    }
}

impl Mlp {
    fn forward(&self, x: Tensor<3>, index: usize, pass: &mut Pass) -> Tensor<3> {
        if let (Some(mlp), true) = (self.fused(), pass.hook.is_none()) {
            return mlp.forward(x);
        }
        let name = |layer| move || format!("model.layers.{index}.mlp.{layer}");
        pass.observe(name("gate_proj"), &x);
        pass.observe(name("up_proj"), &x);
        let gate = silu(self.gate_proj.forward(x.clone()));
        let hidden = gate * self.up_proj.forward(x);
        pass.observe(name("down_proj"), &hidden);
        self.down_proj.forward(hidden)
    }

    /// The three layers as one, whose products a CPU computes in one pass, if all are block-sparse.
    ///
    /// Made for each call, which shares the weights and copies none: held as one module they would lose the names
    /// of the checkpoint.
    fn fused(&self) -> Option<BlockSparseGatedMlp> {
        let (AnyLinear::Sparse(gate), AnyLinear::Sparse(up), AnyLinear::Sparse(down)) =
            (&self.gate_proj, &self.up_proj, &self.down_proj)
        else {
            return None;
        };
        Some(BlockSparseGatedMlp::new(gate.clone(), up.clone(), down.clone()))
    }
}
