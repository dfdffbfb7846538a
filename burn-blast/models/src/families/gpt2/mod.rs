//! GPT-2. Fields are named as in Hugging Face's checkpoints.

mod config;

pub use config::Gpt2Config;

use burn::module::Module;
use burn::nn;
use burn::tensor::{Int, Tensor};
use burn_blast::module::AnyLinear;

use crate::attention::{Pass, Reach, split_heads};
use crate::builder::Builder;
use crate::compact::{compact_mlp, live_heads};
use crate::families::{Family, wide_gelu};
use crate::{Error, LayerSizes};

/// Embeddings, blocks, norm, and the output layer if it is not the embedding.
#[derive(Module, Debug)]
pub struct Gpt2 {
    transformer: Transformer,
    lm_head: Option<AnyLinear>,
}

#[derive(Module, Debug)]
struct Transformer {
    /// Of tokens.
    wte: nn::Embedding,
    /// Of positions.
    wpe: nn::Embedding,
    h: Vec<Block>,
    ln_f: nn::LayerNorm,
}

#[derive(Module, Debug)]
struct Block {
    ln_1: nn::LayerNorm,
    attn: Attention,
    ln_2: nn::LayerNorm,
    mlp: Mlp,
}

#[derive(Module, Debug)]
struct Attention {
    /// Query, key and value side by side.
    c_attn: AnyLinear,
    c_proj: AnyLinear,
    head_dim: usize,
}

#[derive(Module, Debug)]
struct Mlp {
    c_fc: AnyLinear,
    c_proj: AnyLinear,
}

impl Gpt2 {
    pub(crate) fn build(config: &Gpt2Config, builder: &mut Builder) -> Result<Self, Error> {
        let width = config.n_embd;
        let (wte, wpe) = (
            builder.embedding(config.vocab_size, width),
            builder.embedding(config.n_positions, width),
        );
        let blocks = (0..config.n_layer).map(|index| Block::build(config, builder, index));
        let transformer = Transformer {
            wte,
            wpe,
            h: blocks.collect::<Result<_, _>>()?,
            ln_f: builder.layer_norm(width, config.layer_norm_epsilon),
        };
        let head = || builder.linear("lm_head", [width, config.vocab_size], false);
        let lm_head = (!config.tie_word_embeddings).then(head).transpose()?;
        Ok(Self { transformer, lm_head })
    }
}

impl Family for Gpt2 {
    fn embed(&self, tokens: Tensor<2, Int>, pass: &Pass) -> Tensor<3> {
        let time = tokens.dims()[1];
        let (start, end) = (pass.start as i64, (pass.start + time) as i64);
        let positions = Tensor::<1, Int>::arange(start..end, &tokens.device()).unsqueeze::<2>();
        self.transformer.wte.forward(tokens) + self.transformer.wpe.forward(positions)
    }

    fn attend(&self, index: usize, x: Tensor<3>, pass: &mut Pass) -> Tensor<3> {
        let block = &self.transformer.h[index];
        x.clone() + block.attn.forward(block.ln_1.forward(x), index, pass)
    }

    fn feed(&self, index: usize, x: Tensor<3>, pass: &mut Pass) -> Tensor<3> {
        let block = &self.transformer.h[index];
        let input = block.ln_2.forward(x.clone());
        let recorded = pass.mlps.is_some().then(|| input.clone());
        let added = block.mlp.forward(input, index, pass);
        pass.record_mlp(recorded, &added);
        x + added
    }

    #[cfg(feature = "calibrate")]
    fn mlp_inputs(&self, index: usize, x: Tensor<3>) -> [Tensor<3>; 2] {
        let block = &self.transformer.h[index];
        let x = block.ln_2.forward(x);
        [x.clone(), block.mlp.hidden(x)]
    }

    fn layers(&self) -> usize {
        self.transformer.h.len()
    }

    fn norm(&self, x: Tensor<3>) -> Tensor<3> {
        self.transformer.ln_f.forward(x)
    }

    fn mlp(&self, layer: usize, input: Tensor<3>, pass: &mut Pass) -> Tensor<3> {
        self.transformer.h[layer].mlp.forward(input, layer, pass)
    }

    fn sizes(&self) -> Vec<LayerSizes> {
        let sizes = |block: &Block| {
            let heads = block.attn.c_proj.shape()[0] / block.attn.head_dim;
            LayerSizes { hidden: block.mlp.c_proj.shape()[0], heads, kv_heads: heads }
        };
        self.transformer.h.iter().map(sizes).collect()
    }

    fn compact(&mut self) {
        for block in &mut self.transformer.h {
            block.attn.compact();
            compact_mlp([&mut block.mlp.c_fc], &mut block.mlp.c_proj);
        }
    }

    fn head(&self) -> Option<&AnyLinear> {
        self.lm_head.as_ref()
    }

    fn set_head(&mut self, head: Option<AnyLinear>) {
        self.lm_head = head;
    }

    fn embedding(&self) -> Tensor<2> {
        self.transformer.wte.weight.val()
    }

    fn mlp_layers(&self) -> (&'static [&'static str], &'static str) {
        (&["mlp.c_fc"], "mlp.c_proj")
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut AnyLinear)> {
        let mut all = Vec::new();
        for (index, block) in self.transformer.h.iter_mut().enumerate() {
            let named = [
                ("attn.c_attn", &mut block.attn.c_attn),
                ("attn.c_proj", &mut block.attn.c_proj),
                ("mlp.c_fc", &mut block.mlp.c_fc),
                ("mlp.c_proj", &mut block.mlp.c_proj),
            ];
            let full = |name| format!("transformer.h.{index}.{name}");
            all.extend(named.map(|(name, linear)| (full(name), linear)));
        }
        all.extend(self.lm_head.as_mut().map(|head| ("lm_head".to_string(), head)));
        all
    }
}

impl Block {
    fn build(config: &Gpt2Config, builder: &mut Builder, index: usize) -> Result<Self, Error> {
        let path = format!("transformer.h.{index}");
        let (width, hidden) = (config.n_embd, config.width_of(index));
        let (ln_1, ln_2) = (
            builder.layer_norm(width, config.layer_norm_epsilon),
            builder.layer_norm(width, config.layer_norm_epsilon),
        );
        let mut linear = |name: &str, shape| builder.linear(&format!("{path}.{name}"), shape, true);
        Ok(Self {
            ln_1,
            attn: Attention {
                c_attn: linear("attn.c_attn", [width, 3 * width])?,
                c_proj: linear("attn.c_proj", [width, width])?,
                head_dim: width / config.n_head,
            },
            ln_2,
            mlp: Mlp {
                c_fc: linear("mlp.c_fc", [width, hidden])?,
                c_proj: linear("mlp.c_proj", [hidden, width])?,
            },
        })
    }
}

impl Attention {
    /// Removes dead heads; see [`Model::compact`](crate::Model::compact).
    fn compact(&mut self) {
        let (head, [inner, width]) = (self.head_dim, self.c_proj.shape());
        let gives = self.c_attn.writes();
        let live = live_heads(&[&self.c_attn], &gives[2 * inner..], &self.c_proj, head);
        let Some([kept, _]) = live else { return };
        let width = vec![true; width];
        self.c_attn = self.c_attn.submatrix(&width, &kept.repeat(3));
        self.c_proj = self.c_proj.submatrix(&kept, &width);
    }

    fn forward(&self, x: Tensor<3>, index: usize, pass: &mut Pass) -> Tensor<3> {
        let parts = self.c_attn.forward(x).chunk(3, 2).into_iter();
        let split: Vec<_> = parts.map(|part| split_heads(part, self.head_dim)).collect();
        let [query, keys, values] =
            split.try_into().expect("three chunks of a width that three divides");
        let reach = Reach { scale: (self.head_dim as f64).sqrt().recip(), window: None };
        self.c_proj.forward(pass.attend(index, query, keys, values, reach))
    }
}

impl Mlp {
    fn forward(&self, x: Tensor<3>, index: usize, pass: &mut Pass) -> Tensor<3> {
        let name = |layer| move || format!("transformer.h.{index}.mlp.{layer}");
        let x = pass.observe(name("c_fc"), x);
        let hidden = pass.observe(name("c_proj"), self.hidden(x));
        self.c_proj.forward(hidden)
    }

    fn hidden(&self, x: Tensor<3>) -> Tensor<3> {
        wide_gelu(self.c_fc.forward(x))
    }
}
