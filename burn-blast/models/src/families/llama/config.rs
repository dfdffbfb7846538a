//! `config.json` of a Llama, read and checked.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::builder::Builder;
use crate::families::{self, FamilyConfig, Model};
use crate::rope::RopeScaling;
use crate::{Error, LayerSizes};

use super::Llama;

/// Sizes and settings of a Llama. Fields are named as in `config.json` where they come from it unchanged.
///
/// The default is a small model over bytes, as `blast dense` trains it.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "names and meanings as in Hugging Face's LlamaConfig")]
pub struct LlamaConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub attention_bias: bool,
    pub mlp_bias: bool,
    pub tie_word_embeddings: bool,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
}

impl Default for LlamaConfig {
    fn default() -> Self {
        Self {
            vocab_size: 256,
            hidden_size: 256,
            intermediate_size: 1024,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 64,
            max_position_embeddings: 1024,
            rms_norm_eps: 1e-5,
            attention_bias: false,
            mlp_bias: false,
            tie_word_embeddings: true,
            rope_theta: LLAMA_THETA,
            rope_scaling: RopeScaling::None,
        }
    }
}

#[derive(Deserialize)]
struct RawLlama {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    #[serde(default = "positions")]
    max_position_embeddings: usize,
    #[serde(default = "epsilon")]
    rms_norm_eps: f64,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default = "activation")]
    hidden_act: String,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
}

#[derive(Deserialize, Default)]
struct RawRope {
    rope_type: Option<String>,
    /// The older name of `rope_type`; some files have both.
    r#type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
}

// Defaults of transformers, for files that leave a setting out.
const LLAMA_THETA: f64 = 10_000.0;

fn positions() -> usize {
    2048
}

fn epsilon() -> f64 {
    1e-6
}

fn activation() -> String {
    "silu".to_string()
}

impl LlamaConfig {
    pub(crate) fn parse(json: &Value) -> Result<Self, Error> {
        let raw: RawLlama = families::read(json)?;
        if raw.hidden_act != "silu" {
            return Err(Error::Unsupported {
                setting: "hidden_act",
                found: raw.hidden_act,
                supported: "only \"silu\" is",
            });
        }
        let heads = raw.num_attention_heads;
        let groups = raw.num_key_value_heads.unwrap_or(heads);
        let [heads_named, groups_named] =
            [("num_attention_heads", heads), ("num_key_value_heads", groups)];
        families::positive(&[heads_named, groups_named])?;
        families::divides(groups_named, heads_named)?;
        if raw.head_dim.is_none() {
            families::divides(heads_named, ("hidden_size", raw.hidden_size))?;
        }
        let (rope_theta, rope_scaling) = rope(&raw)?;
        let config = Self {
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_hidden_layers: raw.num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: groups,
            head_dim: raw.head_dim.unwrap_or_else(|| raw.hidden_size / heads),
            max_position_embeddings: raw.max_position_embeddings,
            rms_norm_eps: raw.rms_norm_eps,
            attention_bias: raw.attention_bias,
            mlp_bias: raw.mlp_bias,
            tie_word_embeddings: raw.tie_word_embeddings,
            rope_theta,
            rope_scaling,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), Error> {
        families::positive(&[
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("max_position_embeddings", self.max_position_embeddings),
            ("head_dim", self.head_dim),
        ])?;
        families::divides(
            ("num_key_value_heads", self.num_key_value_heads),
            ("num_attention_heads", self.num_attention_heads),
        )?;
        families::divides(("2", 2), ("head_dim", self.head_dim))?;
        families::positive_number("rms_norm_eps", self.rms_norm_eps)?;
        families::positive_number("rope_theta", self.rope_theta)
    }

    /// The content of a `config.json` of these sizes, without scaled positions.
    pub fn to_json(&self) -> Value {
        let mut json = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "rope_theta": self.rope_theta,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": "float32",
        });
        // Left out where it follows from the width, as published models do.
        if self.head_dim != self.hidden_size / self.num_attention_heads.max(1) {
            json["head_dim"] = Value::from(self.head_dim);
        }
        json
    }
}

impl FamilyConfig for LlamaConfig {
    fn vocabulary(&self) -> usize {
        self.vocab_size
    }

    fn context(&self) -> usize {
        self.max_position_embeddings
    }

    fn width(&self) -> usize {
        self.hidden_size
    }

    fn is_tied(&self) -> bool {
        self.tie_word_embeddings
    }

    fn build(&self, builder: &mut Builder) -> Result<Model, Error> {
        self.check()?;
        Ok(Model::Llama(Llama::build(self, builder)?))
    }

    fn write_sizes(&self, sizes: &LayerSizes, json: &mut Value) -> Result<(), Error> {
        if sizes.heads != self.num_attention_heads {
            // Without it, the size of a head follows from their number.
            json["head_dim"] = Value::from(self.head_dim);
            json["num_attention_heads"] = Value::from(sizes.heads);
        }
        for (name, size, before) in [
            ("intermediate_size", sizes.hidden, self.intermediate_size),
            ("num_key_value_heads", sizes.kv_heads, self.num_key_value_heads),
        ] {
            if size != before {
                json[name] = Value::from(size);
            }
        }
        Ok(())
    }

    fn embedding_name(&self) -> &'static str {
        "model.embed_tokens.weight"
    }

    /// PyTorch's `Linear` stores every weight `[d_output, d_input]`.
    fn is_out_in(&self, path: &str) -> bool {
        path.ends_with("_proj.weight") || path == "lm_head.weight"
    }
}

/// The rotary base and scaling of either spelling; the newer one wins, as in transformers.
fn rope(raw: &RawLlama) -> Result<(f64, RopeScaling), Error> {
    let nothing = RawRope::default();
    let given = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref()).unwrap_or(&nothing);
    let theta = given.rope_theta.or(raw.rope_theta).unwrap_or(LLAMA_THETA);
    let share = given.partial_rotary_factor.or(raw.partial_rotary_factor).unwrap_or(1.0);
    if share != 1.0 {
        return Err(Error::Unsupported {
            setting: "partial_rotary_factor",
            found: share.to_string(),
            supported: "only 1, which rotates whole heads, is",
        });
    }
    let kind = given.rope_type.as_deref().or(given.r#type.as_deref()).unwrap_or("default");
    let need = |value: Option<f64>, name: &str| {
        let reason = || format!("rope_type \"{kind}\" needs a positive {name}");
        value.filter(|value| *value > 0.0).ok_or_else(|| Error::Contradiction { reason: reason() })
    };
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: need(given.factor, "factor")? },
        "llama3" => {
            let original = given.original_max_position_embeddings;
            let original = need(original.map(|p| p as f64), "original_max_position_embeddings")?;
            let low_freq_factor = need(given.low_freq_factor, "low_freq_factor")?;
            let high_freq_factor = need(given.high_freq_factor, "high_freq_factor")?;
            if high_freq_factor <= low_freq_factor {
                let reason = "high_freq_factor must be above low_freq_factor".to_string();
                return Err(Error::Contradiction { reason });
            }
            RopeScaling::Llama3 {
                factor: need(given.factor, "factor")?,
                low_freq_factor,
                high_freq_factor,
                original_context: original as usize,
            }
        }
        other => {
            return Err(Error::Unsupported {
                setting: "rope_type",
                found: format!("\"{other}\""),
                supported: "only \"default\", \"linear\" and \"llama3\" are",
            });
        }
    };
    Ok((need(Some(theta), "rope_theta")?, scaling))
}
