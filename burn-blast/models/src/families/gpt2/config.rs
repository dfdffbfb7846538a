//! `config.json` of a GPT-2, read and checked.

use serde::Deserialize;
use serde_json::Value;

use crate::builder::Builder;
use crate::families::{self, FamilyConfig, Model};
use crate::{Error, LayerSizes};

use super::Gpt2;

/// Sizes and settings of a GPT-2. Fields are named as in `config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "names and meanings as in Hugging Face's GPT2Config")]
pub struct Gpt2Config {
    pub vocab_size: usize,
    pub n_embd: usize,
    pub n_layer: usize,
    pub n_head: usize,
    pub n_positions: usize,
    /// `4 * n_embd` if the file leaves it out.
    #[serde(default)]
    pub n_inner: Option<usize>,
    #[serde(default = "epsilon")]
    pub layer_norm_epsilon: f64,
    #[serde(default = "yes")]
    pub tie_word_embeddings: bool,
    #[serde(default = "activation")]
    activation_function: String,
    #[serde(default = "yes")]
    scale_attn_weights: bool,
    #[serde(default)]
    scale_attn_by_inverse_layer_idx: bool,
    #[serde(default)]
    reorder_and_upcast_attn: bool,
    #[serde(default)]
    add_cross_attention: bool,
}

// Defaults of transformers, for files that leave a setting out.

fn epsilon() -> f64 {
    1e-5
}

fn activation() -> String {
    "gelu_new".to_string()
}

fn yes() -> bool {
    true
}

impl Gpt2Config {
    pub(crate) fn parse(json: &Value) -> Result<Self, Error> {
        let config: Self = families::read(json)?;
        if !["gelu_new", "gelu_pytorch_tanh"].contains(&config.activation_function.as_str()) {
            return Err(Error::Unsupported {
                setting: "activation_function",
                found: config.activation_function,
                supported: "only \"gelu_new\" and \"gelu_pytorch_tanh\", its other name, are",
            });
        }
        let inverse = config.scale_attn_by_inverse_layer_idx;
        for (setting, found, implemented, supported) in [
            ("scale_attn_weights", config.scale_attn_weights, true, "only true is"),
            ("scale_attn_by_inverse_layer_idx", inverse, false, "only false is"),
            ("reorder_and_upcast_attn", config.reorder_and_upcast_attn, false, "only false is"),
            ("add_cross_attention", config.add_cross_attention, false, "only false is"),
        ] {
            if found != implemented {
                return Err(Error::Unsupported { setting, found: found.to_string(), supported });
            }
        }
        families::positive(&[
            ("vocab_size", config.vocab_size),
            ("n_embd", config.n_embd),
            ("n_layer", config.n_layer),
            ("n_head", config.n_head),
            ("n_positions", config.n_positions),
            ("n_inner", config.inner()),
        ])?;
        families::divides(("n_head", config.n_head), ("n_embd", config.n_embd))?;
        families::positive_number("layer_norm_epsilon", config.layer_norm_epsilon)?;
        Ok(config)
    }

    /// Hidden features of the MLP.
    pub fn inner(&self) -> usize {
        self.n_inner.unwrap_or(4 * self.n_embd)
    }
}

impl FamilyConfig for Gpt2Config {
    fn vocabulary(&self) -> usize {
        self.vocab_size
    }

    fn context(&self) -> usize {
        self.n_positions
    }

    fn width(&self) -> usize {
        self.n_embd
    }

    fn is_tied(&self) -> bool {
        self.tie_word_embeddings
    }

    fn build(&self, builder: &mut Builder) -> Result<Model, Error> {
        Ok(Model::Gpt2(Gpt2::build(self, builder)?))
    }

    fn write_sizes(&self, sizes: &LayerSizes, json: &mut Value) -> Result<(), Error> {
        if sizes.heads != self.n_head {
            let reason = "the size of GPT-2's heads follows from their number".to_string();
            return Err(Error::Uneven { reason });
        }
        if sizes.hidden != self.inner() {
            json["n_inner"] = Value::from(sizes.hidden);
        }
        Ok(())
    }

    fn embedding_name(&self) -> &'static str {
        "transformer.wte.weight"
    }

    /// `Conv1D`, which all other layers are, stores `[d_input, d_output]`.
    fn is_out_in(&self, path: &str) -> bool {
        path == "lm_head.weight"
    }

    /// The first GPT-2 checkpoints leave out the name of the decoder.
    fn path_in_module(&self, name: &str) -> String {
        let decoder = ["wte.", "wpe.", "h.", "ln_f."].iter().any(|part| name.starts_with(part));
        if decoder { format!("transformer.{name}") } else { name.to_string() }
    }

    fn weight_names(&self, layer: &str) -> Vec<String> {
        let full = format!("{layer}.weight");
        let short = full.strip_prefix("transformer.").map(str::to_string);
        short.into_iter().chain([full]).collect()
    }
}
