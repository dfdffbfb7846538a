//! `config.json` of a GPT-2, read and checked.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::builder::Builder;
use crate::families::{self, FamilyConfig, Model};
use crate::{Error, LayerSizes};

use super::Gpt2;

/// Sizes and settings of a GPT-2. Fields are named as in `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "names and meanings as in Hugging Face's GPT2Config")]
pub struct Gpt2Config {
    pub vocab_size: usize,
    pub n_embd: usize,
    pub n_layer: usize,
    pub n_head: usize,
    pub n_positions: usize,
    pub n_inner: usize,
    pub layer_norm_epsilon: f64,
    pub tie_word_embeddings: bool,
    /// `n_inner` of each layer, if they differ; the field of that name is then the largest.
    #[serde(skip)]
    pub layer_widths: Vec<usize>,
}

impl Gpt2Config {
    pub(crate) fn parse(json: &Value) -> Result<Self, Error> {
        let activations = [json!("gelu_new"), json!("gelu_pytorch_tanh")];
        families::only(json, "activation_function", &activations)?;
        for (setting, supported) in [
            ("scale_attn_weights", true),
            ("scale_attn_by_inverse_layer_idx", false),
            ("reorder_and_upcast_attn", false),
            ("add_cross_attention", false),
        ] {
            families::only(json, setting, &[json!(supported)])?;
        }
        // As transformers.
        let defaults = json!({ "layer_norm_epsilon": 1e-5, "tie_word_embeddings": true });
        let mut json = families::with_defaults(defaults, json);
        if json["n_inner"].is_null() {
            json["n_inner"] = json!(4 * json["n_embd"].as_u64().unwrap_or(0));
        }
        let layers = json["n_layer"].as_u64().unwrap_or(0) as usize;
        let layer_widths = families::take_widths(&mut json, "n_inner", layers)?;
        let config = Self { layer_widths, ..families::read(&json)? };
        families::positive(&config)?;
        families::divides(("n_head", config.n_head), ("n_embd", config.n_embd))?;
        Ok(config)
    }
}

impl Gpt2Config {
    /// Hidden features of the MLP of a layer.
    pub(super) fn width_of(&self, layer: usize) -> usize {
        self.layer_widths.get(layer).copied().unwrap_or(self.n_inner)
    }
}

impl FamilyConfig for Gpt2Config {
    fn build(&self, builder: &mut Builder) -> Result<Model, Error> {
        Ok(Model::Gpt2(Gpt2::build(self, builder)?))
    }

    fn write_sizes(&self, sizes: &[LayerSizes], json: &mut Value) -> Result<(), Error> {
        if sizes[0].heads != self.n_head {
            let reason = "the size of GPT-2's heads follows from their number".to_string();
            return Err(Error::Uneven(reason));
        }
        if sizes.iter().enumerate().any(|(layer, one)| one.hidden != self.width_of(layer)) {
            json["n_inner"] = families::widths(sizes);
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
