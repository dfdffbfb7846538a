//! Llama and its relatives: one decoder, whose [`Design`] says what differs. Fields are named as in Hugging Face's
//! checkpoints.

mod config;
mod design;
mod layer;
mod norm;

pub use config::DecoderConfig;
pub use design::{Design, GateActivation, LayerDesign};

pub(crate) use design::parse;
pub(crate) use norm::RmsNorm;

use burn::module::Module;
use burn::nn;
use burn::tensor::{DType, Int, Tensor, bf16, f16};
use burn_blast::module::AnyLinear;

use crate::attention::Pass;
use crate::builder::Builder;
use crate::compact::compact_mlp;
use crate::families::Family;
use crate::rope::Rope;
use crate::{Error, LayerSizes};

use layer::Layer;

/// Embedding, layers, norm, and the output layer if it is not the embedding.
#[derive(Module, Debug)]
pub struct Decoder {
    model: Body,
    lm_head: Option<AnyLinear>,
    #[module(skip)]
    ropes: [Rope; 2],
    #[module(skip)]
    embedding_scale: Option<f64>,
}

#[derive(Module, Debug)]
struct Body {
    embed_tokens: nn::Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
}

impl Decoder {
    pub(crate) fn build(config: &DecoderConfig, builder: &mut Builder) -> Result<Self, Error> {
        let width = config.hidden_size;
        let embed_tokens = builder.embedding(config.vocab_size, width);
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::build(config, builder, index))
            .collect::<Result<_, _>>()?;
        let design = &config.design;
        let norm = builder.rms_norm(width, config.rms_norm_eps, design.unit_offset);
        let head = || builder.linear("lm_head", [width, config.vocab_size], false);
        let lm_head = (!config.tie_word_embeddings).then(head).transpose()?;
        let local = design.local_rope.as_ref().unwrap_or(&config.rope);
        let ropes = [&config.rope, local].map(|rope| Rope::new(config.head_dim, rope.clone()));
        let embedding_scale = design.scaled_embedding.then_some((width as f64).sqrt());
        Ok(Self { model: Body { embed_tokens, layers, norm }, lm_head, ropes, embedding_scale })
    }
}

impl Family for Decoder {
    fn embed(&self, tokens: Tensor<2, Int>, _: &Pass) -> Tensor<3> {
        let x = self.model.embed_tokens.forward(tokens);
        match self.embedding_scale {
            Some(scale) => {
                let scale = rounded(scale, x.dtype());
                x.mul_scalar(scale)
            }
            None => x,
        }
    }

    fn attend(&self, index: usize, x: Tensor<3>, pass: &mut Pass) -> Tensor<3> {
        let layer = &self.model.layers[index];
        let rotation = layer.rope().map(|rope| {
            let compute = |start| self.ropes[rope].at(start, x.dims()[1], &x.device(), x.dtype());
            pass.rotation(rope, compute)
        });
        layer.attend(x, index, rotation.as_ref(), pass)
    }

    fn feed(&self, index: usize, x: Tensor<3>, pass: &mut Pass) -> Tensor<3> {
        self.model.layers[index].feed(x, index, pass)
    }

    #[cfg(feature = "calibrate")]
    fn mlp_inputs(&self, index: usize, x: Tensor<3>) -> [Tensor<3>; 2] {
        self.model.layers[index].mlp_inputs(x)
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
        self.model.layers.iter().map(Layer::sizes).collect()
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

    fn set_head(&mut self, head: Option<AnyLinear>) {
        self.lm_head = head;
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

/// The number as a type of few bits has it.
fn rounded(number: f64, dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => bf16::from_f64(number).to_f64(),
        DType::F16 => f16::from_f64(number).to_f64(),
        _ => number,
    }
}
