//! One layer of a decoder.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use burn_blast::functions::{gated_activation, is_host};
use burn_blast::module::{AnyLinear, BlockSparseGatedMlp, MlpActivation};

use super::DecoderConfig;
use super::design::{GateActivation, LayerDesign};
use super::norm::RmsNorm;
use crate::attention::{Pass, Reach, split_heads};
use crate::builder::Builder;
use crate::compact::live_heads;
use crate::families::wide_gelu;
use crate::rope::Rotation;
use crate::{Error, LayerSizes};

#[derive(Module, Debug)]
pub(super) struct Layer {
    input_layernorm: RmsNorm,
    pub(super) self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    pre_feedforward_layernorm: Option<RmsNorm>,
    pub(super) mlp: Mlp,
    post_feedforward_layernorm: Option<RmsNorm>,
    #[module(skip)]
    rope: Option<usize>,
}

#[derive(Module, Debug)]
pub(super) struct Attention {
    pub(super) q_proj: AnyLinear,
    pub(super) k_proj: AnyLinear,
    pub(super) v_proj: AnyLinear,
    pub(super) o_proj: AnyLinear,
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
    head_dim: usize,
    #[module(skip)]
    reach: Reach,
}

#[derive(Module, Debug)]
pub(super) struct Mlp {
    pub(super) gate_proj: AnyLinear,
    pub(super) up_proj: AnyLinear,
    pub(super) down_proj: AnyLinear,
    #[module(skip)]
    activation: GateActivation,
}

impl GateActivation {
    /// `activation(gate) · up`.
    fn apply(self, gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Silu if is_host(&gate.device()) => {
                gated_activation(gate, up, MlpActivation::Silu)
            }
            Self::Silu => silu(gate) * up,
            Self::GeluTanh => wide_gelu(gate) * up,
        }
    }
}

impl Layer {
    pub(super) fn build(
        config: &DecoderConfig,
        builder: &mut Builder,
        index: usize,
    ) -> Result<Self, Error> {
        let (width, hidden) = (config.hidden_size, config.width_of(index));
        let (head_dim, bias) = (config.head_dim, config.attention_bias);
        let (design, LayerDesign { window, rotated }) =
            (&config.design, config.design.layer(index));
        let path = format!("model.layers.{index}");
        let norm = |features| builder.rms_norm(features, config.rms_norm_eps, design.unit_offset);
        let [input_layernorm, post_attention_layernorm] = [norm(width), norm(width)];
        let [pre_feedforward_layernorm, post_feedforward_layernorm] =
            [(); 2].map(|()| design.output_norms.then(|| norm(width)));
        let [q_norm, k_norm] = [(); 2].map(|()| design.head_norms.then(|| norm(head_dim)));
        let query = config.num_attention_heads * head_dim;
        let key = config.num_key_value_heads * head_dim;
        let mut linear =
            |name: &str, shape, bias| builder.linear(&format!("{path}.{name}"), shape, bias);
        let self_attn = Attention {
            q_proj: linear("self_attn.q_proj", [width, query], bias)?,
            k_proj: linear("self_attn.k_proj", [width, key], bias)?,
            v_proj: linear("self_attn.v_proj", [width, key], bias)?,
            o_proj: linear("self_attn.o_proj", [query, width], bias && !design.unbiased_output)?,
            q_norm,
            k_norm,
            head_dim,
            reach: Reach {
                scale: design.query_scalar.unwrap_or(head_dim as f64).sqrt().recip(),
                window,
            },
        };
        let mlp = Mlp {
            gate_proj: linear("mlp.gate_proj", [width, hidden], config.mlp_bias)?,
            up_proj: linear("mlp.up_proj", [width, hidden], config.mlp_bias)?,
            down_proj: linear("mlp.down_proj", [hidden, width], config.mlp_bias)?,
            activation: design.activation,
        };
        let local = window.is_some() && design.local_rope.is_some();
        Ok(Self {
            input_layernorm,
            self_attn,
            post_attention_layernorm,
            pre_feedforward_layernorm,
            mlp,
            post_feedforward_layernorm,
            rope: rotated.then_some(usize::from(local)),
        })
    }

    /// Number of its rotations among the model's, if queries and keys are rotated.
    pub(super) fn rope(&self) -> Option<usize> {
        self.rope
    }

    pub(super) fn sizes(&self) -> LayerSizes {
        let heads = |linear: &AnyLinear| linear.shape()[1] / self.self_attn.head_dim;
        LayerSizes {
            hidden: self.mlp.down_proj.shape()[0],
            heads: heads(&self.self_attn.q_proj),
            kv_heads: heads(&self.self_attn.k_proj),
        }
    }

    pub(super) fn attend(
        &self,
        x: Tensor<3>,
        index: usize,
        rotation: Option<&Rotation>,
        pass: &mut Pass,
    ) -> Tensor<3> {
        let normed = self.input_layernorm.forward(x.clone());
        let added = self.self_attn.forward(normed, index, rotation, pass);
        // With norms of its outputs, a layer has four, and this is the one after attention.
        x + match &self.pre_feedforward_layernorm {
            Some(_) => self.post_attention_layernorm.forward(added),
            None => added,
        }
    }

    pub(super) fn feed(&self, x: Tensor<3>, index: usize, pass: &mut Pass) -> Tensor<3> {
        let input = self.mlp_norm().forward(x.clone());
        let recorded = pass.mlps.is_some().then(|| input.clone());
        let added = self.mlp.forward(input, index, pass);
        pass.record_mlp(recorded, &added);
        x + match &self.post_feedforward_layernorm {
            Some(norm) => norm.forward(added),
            None => added,
        }
    }

    #[cfg(feature = "calibrate")]
    pub(super) fn mlp_inputs(&self, x: Tensor<3>) -> [Tensor<3>; 2] {
        let x = self.mlp_norm().forward(x);
        [x.clone(), self.mlp.hidden(x.clone(), x)]
    }

    fn mlp_norm(&self) -> &RmsNorm {
        self.pre_feedforward_layernorm.as_ref().unwrap_or(&self.post_attention_layernorm)
    }
}

impl Attention {
    /// Removes dead heads; see [`Model::compact`](crate::Model::compact).
    pub(super) fn compact(&mut self) {
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
        rotation: Option<&Rotation>,
        pass: &mut Pass,
    ) -> Tensor<3> {
        let split = |x| split_heads(x, self.head_dim);
        let rotated = |x: Tensor<3>, norm: &Option<RmsNorm>| {
            let heads = match norm {
                Some(norm) => norm.forward(split(x)),
                None => split(x),
            };
            match rotation {
                Some(rotation) => rotation.apply(heads),
                None => heads,
            }
        };
        let query = rotated(self.q_proj.forward(x.clone()), &self.q_norm);
        let keys = rotated(self.k_proj.forward(x.clone()), &self.k_norm);
        let values = split(self.v_proj.forward(x));
        self.o_proj.forward(pass.attend(index, query, keys, values, self.reach))
    }
}

impl Mlp {
    pub(super) fn forward(&self, x: Tensor<3>, index: usize, pass: &mut Pass) -> Tensor<3> {
        if let (Some(mlp), true) = (self.fused(), pass.hook.is_none()) {
            return mlp.forward(x);
        }
        let name = |layer| move || format!("model.layers.{index}.mlp.{layer}");
        let to_gate = pass.observe(name("gate_proj"), x.clone());
        let to_up = pass.observe(name("up_proj"), x);
        let hidden = pass.observe(name("down_proj"), self.hidden(to_gate, to_up));
        self.down_proj.forward(hidden)
    }

    fn hidden(&self, to_gate: Tensor<3>, to_up: Tensor<3>) -> Tensor<3> {
        self.activation.apply(self.gate_proj.forward(to_gate), self.up_proj.forward(to_up))
    }

    /// The three layers as one, whose products a CPU computes in one pass, if all are block-sparse and the
    /// activation is one of the kernels'.
    ///
    /// Made for each call, which shares the weights and copies none: held as one module they would lose the names
    /// of the checkpoint.
    fn fused(&self) -> Option<BlockSparseGatedMlp> {
        let (AnyLinear::Sparse(gate), AnyLinear::Sparse(up), AnyLinear::Sparse(down)) =
            (&self.gate_proj, &self.up_proj, &self.down_proj)
        else {
            return None;
        };
        if self.activation != GateActivation::Silu {
            return None;
        }
        Some(BlockSparseGatedMlp::new(gate.clone(), up.clone(), down.clone()))
    }
}
