//! `config.json` of a checkpoint, read and checked.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::rope::{Rope, RopeScaling};
use crate::{Error, LayerSizes};

/// Architecture and sizes of a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Config {
    /// `"model_type": "llama"`.
    Llama(LlamaConfig),
    /// `"model_type": "gpt2"`.
    Gpt2(Gpt2Config),
}

/// A Llama. Fields are called as in `config.json` where they come from it unchanged.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "names and meanings are those of Hugging Face's LlamaConfig")]
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
    /// From `rope_theta` and `rope_scaling`, or from `rope_parameters`.
    pub rope: Rope,
}

/// A GPT-2. Fields are called as in `config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "names and meanings are those of Hugging Face's GPT2Config")]
pub struct Gpt2Config {
    pub vocab_size: usize,
    pub n_embd: usize,
    pub n_layer: usize,
    pub n_head: usize,
    pub n_positions: usize,
    /// `4 * n_embd` if the file leaves it out.
    #[serde(default)]
    pub n_inner: Option<usize>,
    #[serde(default = "gpt2_epsilon")]
    pub layer_norm_epsilon: f64,
    #[serde(default = "tied")]
    pub tie_word_embeddings: bool,
    #[serde(default = "gpt2_activation")]
    activation_function: String,
    #[serde(default = "scaled")]
    scale_attn_weights: bool,
    #[serde(default)]
    scale_attn_by_inverse_layer_idx: bool,
    #[serde(default)]
    reorder_and_upcast_attn: bool,
    #[serde(default)]
    add_cross_attention: bool,
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
    #[serde(default = "llama_positions")]
    max_position_embeddings: usize,
    #[serde(default = "llama_epsilon")]
    rms_norm_eps: f64,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default = "llama_activation")]
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

fn llama_positions() -> usize {
    2048
}

fn llama_epsilon() -> f64 {
    1e-6
}

fn llama_activation() -> String {
    "silu".to_string()
}

fn gpt2_epsilon() -> f64 {
    1e-5
}

fn gpt2_activation() -> String {
    "gelu_new".to_string()
}

fn tied() -> bool {
    true
}

fn scaled() -> bool {
    true
}

impl Config {
    /// Reads the content of a `config.json`; `path` is where it came from, for messages.
    ///
    /// # Errors
    /// If the architecture or a setting is not implemented, or sizes are missing or contradict each other.
    pub fn parse(json: &Value, path: &Path) -> Result<Self, Error> {
        if !json.get("quantization_config").is_none_or(Value::is_null) {
            return Err(Error::Unsupported {
                setting: "quantization_config",
                found: "a quantised checkpoint".to_string(),
                supported: "use the checkpoint in bf16, f16 or f32",
            });
        }
        let config = match json.get("model_type").and_then(Value::as_str) {
            Some("llama") => Self::Llama(LlamaConfig::check(read(json, path)?)?),
            Some("gpt2") => Self::Gpt2(Gpt2Config::check(read(json, path)?)?),
            found => return Err(Error::ModelType { found: found.unwrap_or("").to_string() }),
        };
        Ok(config)
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        match self {
            Self::Llama(config) => config.vocab_size,
            Self::Gpt2(config) => config.vocab_size,
        }
    }

    /// Positions the model was made for.
    pub fn context(&self) -> usize {
        match self {
            Self::Llama(config) => config.max_position_embeddings,
            Self::Gpt2(config) => config.n_positions,
        }
    }

    /// Features between the layers.
    pub fn width(&self) -> usize {
        match self {
            Self::Llama(config) => config.hidden_size,
            Self::Gpt2(config) => config.n_embd,
        }
    }

    /// What each layer has.
    pub(crate) fn sizes(&self) -> LayerSizes {
        match self {
            Self::Llama(config) => LayerSizes {
                hidden: config.intermediate_size,
                heads: config.num_attention_heads,
                kv_heads: config.num_key_value_heads,
            },
            Self::Gpt2(config) => {
                LayerSizes { hidden: config.inner(), heads: config.n_head, kv_heads: config.n_head }
            }
        }
    }

    /// Whether the output layer is the embedding.
    pub fn is_tied(&self) -> bool {
        match self {
            Self::Llama(config) => config.tie_word_embeddings,
            Self::Gpt2(config) => config.tie_word_embeddings,
        }
    }
}

impl LlamaConfig {
    fn check(raw: RawLlama) -> Result<Self, Error> {
        if raw.hidden_act != "silu" {
            return Err(Error::Unsupported {
                setting: "hidden_act",
                found: raw.hidden_act,
                supported: "only \"silu\" is",
            });
        }
        let heads = raw.num_attention_heads;
        let groups = raw.num_key_value_heads.unwrap_or(heads);
        positive(&[
            ("vocab_size", raw.vocab_size),
            ("hidden_size", raw.hidden_size),
            ("intermediate_size", raw.intermediate_size),
            ("num_hidden_layers", raw.num_hidden_layers),
            ("num_attention_heads", heads),
            ("num_key_value_heads", groups),
            ("max_position_embeddings", raw.max_position_embeddings),
        ])?;
        divides(("num_key_value_heads", groups), ("num_attention_heads", heads))?;
        if raw.head_dim.is_none() {
            divides(("num_attention_heads", heads), ("hidden_size", raw.hidden_size))?;
        }
        let head_dim = raw.head_dim.unwrap_or(raw.hidden_size / heads);
        divides(("2", 2), ("head_dim", head_dim.max(1)))?;
        epsilon("rms_norm_eps", raw.rms_norm_eps)?;
        let rope = rope(&raw, head_dim)?;
        Ok(Self {
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_hidden_layers: raw.num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: groups,
            head_dim,
            max_position_embeddings: raw.max_position_embeddings,
            rms_norm_eps: raw.rms_norm_eps,
            attention_bias: raw.attention_bias,
            mlp_bias: raw.mlp_bias,
            tie_word_embeddings: raw.tie_word_embeddings,
            rope,
        })
    }
}

impl Gpt2Config {
    fn check(config: Self) -> Result<Self, Error> {
        if !["gelu_new", "gelu_pytorch_tanh"].contains(&config.activation_function.as_str()) {
            return Err(Error::Unsupported {
                setting: "activation_function",
                found: config.activation_function,
                supported: "only \"gelu_new\" and \"gelu_pytorch_tanh\", its other name, are",
            });
        }
        for (setting, found, implemented, supported) in [
            ("scale_attn_weights", config.scale_attn_weights, true, "only true is"),
            (
                "scale_attn_by_inverse_layer_idx",
                config.scale_attn_by_inverse_layer_idx,
                false,
                "only false is",
            ),
            ("reorder_and_upcast_attn", config.reorder_and_upcast_attn, false, "only false is"),
            ("add_cross_attention", config.add_cross_attention, false, "only false is"),
        ] {
            if found != implemented {
                return Err(Error::Unsupported { setting, found: found.to_string(), supported });
            }
        }
        positive(&[
            ("vocab_size", config.vocab_size),
            ("n_embd", config.n_embd),
            ("n_layer", config.n_layer),
            ("n_head", config.n_head),
            ("n_positions", config.n_positions),
            ("n_inner", config.inner()),
        ])?;
        divides(("n_head", config.n_head), ("n_embd", config.n_embd))?;
        epsilon("layer_norm_epsilon", config.layer_norm_epsilon)?;
        Ok(config)
    }

    /// Hidden features of the MLP.
    pub fn inner(&self) -> usize {
        self.n_inner.unwrap_or(4 * self.n_embd)
    }
}

/// The rotary frequencies of either spelling; the newer one wins, as in transformers.
fn rope(raw: &RawLlama, head_dim: usize) -> Result<Rope, Error> {
    let nothing = RawRope::default();
    let given = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref()).unwrap_or(&nothing);
    let theta = given.rope_theta.or(raw.rope_theta).unwrap_or(LLAMA_THETA);
    let share = given.partial_rotary_factor.or(raw.partial_rotary_factor).unwrap_or(1.0);
    if share != 1.0 {
        return Err(Error::Unsupported {
            setting: "partial_rotary_factor",
            found: share.to_string(),
            supported: "only 1, whole heads turned, is",
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
    Ok(Rope::new(head_dim, need(Some(theta), "rope_theta")?, &scaling))
}

fn read<T: DeserializeOwned>(json: &Value, path: &Path) -> Result<T, Error> {
    T::deserialize(json)
        .map_err(|error| Error::Json { path: path.to_path_buf(), reason: error.to_string() })
}

fn positive(sizes: &[(&str, usize)]) -> Result<(), Error> {
    match sizes.iter().find(|(_, size)| *size == 0) {
        Some((name, _)) => Err(Error::Contradiction { reason: format!("{name} is 0") }),
        None => Ok(()),
    }
}

fn divides(part: (&str, usize), whole: (&str, usize)) -> Result<(), Error> {
    if whole.1.is_multiple_of(part.1) {
        return Ok(());
    }
    let reason = format!("{} = {} does not divide {} = {}", part.0, part.1, whole.0, whole.1);
    Err(Error::Contradiction { reason })
}

fn epsilon(name: &str, value: f64) -> Result<(), Error> {
    match value > 0.0 {
        true => Ok(()),
        false => Err(Error::Contradiction { reason: format!("{name} is {value}") }),
    }
}
