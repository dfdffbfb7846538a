//! `config.json` of a decoder, read and checked.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::builder::Builder;
use crate::families::{self, FamilyConfig, Model, rope};
use crate::rope::{RopeScaling, Rotary};
use crate::{Error, LayerSizes};

use super::{Decoder, Design};

/// Sizes and settings of a decoder. Fields are named as in `config.json` where they come from it unchanged.
///
/// The default is a small Llama over bytes, as `blast dense` trains it. What serde reads and writes are the sizes alone:
/// [`ModelConfig::parse`](crate::ModelConfig::parse) reads a `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "names and meanings as in Hugging Face's LlamaConfig")]
pub struct DecoderConfig {
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
    /// `intermediate_size` of each layer, if they differ; the field of that name is then the largest.
    #[serde(skip)]
    pub layer_widths: Vec<usize>,
    #[serde(skip)]
    pub rope: Rotary,
    /// What tells the families apart.
    #[serde(skip)]
    pub design: Design,
}

impl Default for DecoderConfig {
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
            layer_widths: Vec::new(),
            rope: Rotary::default(),
            design: Design::default(),
        }
    }
}

impl DecoderConfig {
    /// What all families share.
    pub(crate) fn parse(json: &Value) -> Result<Self, Error> {
        families::only(json, "hidden_act", &[json!("silu")])?;
        let rope = rope::read(json, rope::THETA)?;
        let config = Self { rope, ..Self::sizes(json)? };
        config.check()?;
        Ok(config)
    }

    /// The sizes alone.
    pub(super) fn sizes(json: &Value) -> Result<Self, Error> {
        // As transformers.
        let defaults = json!({
            "max_position_embeddings": rope::DEFAULT_CONTEXT, "rms_norm_eps": 1e-6, "attention_bias": false,
            "mlp_bias": false, "tie_word_embeddings": false,
        });
        let mut json = families::with_defaults(defaults, json);
        for name in ["hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"] {
            if json[name].as_u64() == Some(0) {
                return Err(Error::Contradiction(format!("{name} is 0")));
            }
        }
        let layers = json["num_hidden_layers"].as_u64().unwrap_or(0) as usize;
        let layer_widths = families::take_widths(&mut json, "intermediate_size", layers)?;
        let size = |name: &str| json[name].as_u64().unwrap_or(0) as usize;
        let (width, heads) = (size("hidden_size"), size("num_attention_heads").max(1));
        let groups = ("num_key_value_heads", size("num_key_value_heads"));
        match json[groups.0].is_null() {
            true => json[groups.0] = json!(heads),
            false => families::divides(groups, ("num_attention_heads", heads))?,
        }
        if json["head_dim"].is_null() {
            families::divides(("num_attention_heads", heads), ("hidden_size", width))?;
            json["head_dim"] = json!(width / heads);
        }
        let config = Self { layer_widths, ..families::read(&json)? };
        config.check()?;
        Ok(config)
    }

    /// Hidden features of the MLP of a layer.
    pub(super) fn width_of(&self, layer: usize) -> usize {
        self.layer_widths.get(layer).copied().unwrap_or(self.intermediate_size)
    }

    /// The same with another design.
    pub(super) fn designed(self, design: Design) -> Self {
        Self { design, ..self }
    }

    fn check(&self) -> Result<(), Error> {
        families::positive(self)?;
        families::divides(
            ("num_key_value_heads", self.num_key_value_heads),
            ("num_attention_heads", self.num_attention_heads),
        )?;
        families::divides(("2", 2), ("head_dim", self.head_dim))?;
        self.design.check(self.num_hidden_layers)?;
        let ropes = [Some(&self.rope), self.design.local_rope.as_ref()];
        ropes.into_iter().flatten().try_for_each(|rope| rope.check(self.head_dim))
    }

    /// The content of a `config.json` of a Llama of these sizes.
    ///
    /// # Panics
    /// If it is another family, or positions are scaled.
    pub fn to_json(&self) -> Value {
        let is_plain = self.design == Design::default() && self.rope.scaling == RopeScaling::None;
        assert!(is_plain, "only the settings of a plain Llama are written");
        let names = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "torch_dtype": "float32",
        });
        let mut json = families::with_defaults(names, &families::settings(self));
        json["rope_theta"] = json!(self.rope.theta);
        // Left out where it follows from the width, as published models do.
        if self.head_dim == self.hidden_size / self.num_attention_heads.max(1) {
            json.as_object_mut().expect("a map of settings").remove("head_dim");
        }
        json
    }
}

impl FamilyConfig for DecoderConfig {
    fn build(&self, builder: &mut Builder) -> Result<Model, Error> {
        self.check()?;
        Ok(Model::Decoder(Decoder::build(self, builder)?))
    }

    fn write_sizes(&self, sizes: &[LayerSizes], json: &mut Value) -> Result<(), Error> {
        let LayerSizes { heads, kv_heads, .. } = sizes[0];
        if heads != self.num_attention_heads {
            // Without it, the size of a head follows from their number.
            json["head_dim"] = Value::from(self.head_dim);
            json["num_attention_heads"] = Value::from(heads);
        }
        if kv_heads != self.num_key_value_heads {
            json["num_key_value_heads"] = Value::from(kv_heads);
        }
        if sizes.iter().enumerate().any(|(layer, one)| one.hidden != self.width_of(layer)) {
            json["intermediate_size"] = families::widths(sizes);
        }
        Ok(())
    }

    fn embedding_name(&self) -> &'static str {
        "model.embed_tokens.weight"
    }

    /// A model that was saved without its output layer has no `model.` before its names.
    fn path_in_module(&self, name: &str) -> String {
        match ["embed_tokens.", "layers.", "norm."].iter().any(|part| name.starts_with(part)) {
            true => format!("model.{name}"),
            false => name.to_owned(),
        }
    }

    /// PyTorch's `Linear` stores every weight `[d_output, d_input]`.
    fn is_out_in(&self, path: &str) -> bool {
        path.ends_with("_proj.weight") || path == "lm_head.weight"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_have_a_point_and_the_positions_of_the_pretraining_may_be_left_out() {
        let parse = |more: Value| {
            let json = json!({
                "vocab_size": 64, "hidden_size": 32.0, "intermediate_size": 64, "num_hidden_layers": 1,
                "num_attention_heads": 4.0, "max_position_embeddings": 256.0,
            });
            let json = families::with_defaults(json, &more);
            DecoderConfig::parse(&families::with_whole_numbers(&json)).unwrap()
        };
        let scaled = |original: Value| {
            let mut rope = json!({
                "rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4.0,
            });
            if !original.is_null() {
                rope["original_max_position_embeddings"] = original;
            }
            parse(json!({ "rope_scaling": rope }))
        };
        let config = scaled(json!(128.0));
        assert_eq!((config.hidden_size, config.head_dim, config.rope.theta), (32, 8, 10_000.0));
        assert_eq!(config, scaled(json!(128)));
        // As many as the model has.
        assert_eq!(scaled(json!(null)), scaled(json!(256)));
        assert_ne!(scaled(json!(null)), config);
    }
}
