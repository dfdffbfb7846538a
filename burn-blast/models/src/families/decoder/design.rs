//! What tells the families of decoders apart, read from a `config.json`.
//!
//! Every family is a Llama with some of this changed: one function each, and its defaults as in the configuration class of
//! transformers.

use serde_json::{Value, json};

use super::DecoderConfig;
use crate::Error;
use crate::families::{only, rope, unsupported, whole, with_defaults};
use crate::rope::Rotary;

/// How a decoder differs from a Llama, which is the default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Design {
    /// Activation of the MLP's gate.
    pub activation: GateActivation,
    /// Whether the layer after attention has no bias where those before it have one.
    pub unbiased_output: bool,
    /// Whether queries and keys pass a norm over each head before they are rotated.
    pub head_norms: bool,
    /// Whether what attention and MLP add passes a norm too.
    pub output_norms: bool,
    /// Whether norms multiply by one more than their weight.
    pub unit_offset: bool,
    /// Whether embeddings are multiplied by the square root of the width.
    pub scaled_embedding: bool,
    /// Scores of attention are divided by the square root of this; without it, of the size of a head.
    pub query_scalar: Option<f64>,
    /// Rotations of the layers with a window, where they differ.
    pub local_rope: Option<Rotary>,
    /// What differs between layers; empty if nothing does.
    pub layers: Vec<LayerDesign>,
}

/// Activation of the gate of an MLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GateActivation {
    /// `x · sigmoid(x)`.
    #[default]
    Silu,
    /// Gaussian error linear unit, approximated by a hyperbolic tangent.
    GeluTanh,
}

/// What may differ between the layers of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerDesign {
    /// Positions that a query sees, itself and those before it; all without it.
    pub window: Option<usize>,
    /// Whether queries and keys are rotated.
    pub rotated: bool,
}

impl Default for LayerDesign {
    fn default() -> Self {
        Self { window: None, rotated: true }
    }
}

impl Design {
    /// Refuses what no layer can be made of.
    pub(super) fn check(&self, layers: usize) -> Result<(), Error> {
        let is_empty = self.layers.iter().any(|layer| layer.window == Some(0));
        let problem = if is_empty {
            "a window of attention is 0"
        } else if self.query_scalar.is_some_and(|scalar| !(scalar > 0.0 && scalar.is_finite())) {
            "query_pre_attn_scalar is not a positive number"
        } else if ![0, layers].contains(&self.layers.len()) {
            "the design has another number of layers than the model"
        } else {
            return Ok(());
        };
        Err(Error::Contradiction(problem.to_owned()))
    }

    /// What is special about a layer.
    pub(super) fn layer(&self, index: usize) -> LayerDesign {
        self.layers.get(index).copied().unwrap_or_default()
    }
}

/// The decoder of a family, if it is one.
pub(crate) fn parse(family: &str, json: &Value) -> Option<Result<DecoderConfig, Error>> {
    Some(match family {
        "llama" => DecoderConfig::parse(json),
        "mistral" => mistral(json),
        "qwen2" => qwen2(json),
        "qwen3" => qwen3(json),
        "smollm3" => smollm3(json),
        "gemma3_text" => gemma3(json),
        _ => return None,
    })
}

fn mistral(json: &Value) -> Result<DecoderConfig, Error> {
    let defaults = json!({
        "max_position_embeddings": 131_072, "num_key_value_heads": 8, "sliding_window": 4096,
    });
    let json = without(with_defaults(defaults, json), &["attention_bias", "mlp_bias"]);
    let config = DecoderConfig::parse(&json)?;
    let design = LayerDesign { window: window(&json)?, rotated: true };
    let layers = vec![design; config.num_hidden_layers];
    Ok(config.designed(Design { layers, ..Design::default() }))
}

fn qwen2(json: &Value) -> Result<DecoderConfig, Error> {
    let json = with_defaults(json!({ "num_key_value_heads": 32 }), &qwen(json));
    let json = without(json, &["attention_bias"]);
    let config = DecoderConfig { attention_bias: true, ..DecoderConfig::parse(&json)? };
    let layers = qwen_layers(&json, &config)?;
    Ok(config.designed(Design { unbiased_output: true, layers, ..Design::default() }))
}

fn qwen3(json: &Value) -> Result<DecoderConfig, Error> {
    let defaults = json!({ "num_key_value_heads": 32, "head_dim": 128 });
    let json = with_defaults(defaults, &qwen(json));
    let config = DecoderConfig::parse(&json)?;
    let layers = qwen_layers(&json, &config)?;
    Ok(config.designed(Design { head_norms: true, layers, ..Design::default() }))
}

/// Settings of a Qwen with what all of them leave out.
fn qwen(json: &Value) -> Value {
    let defaults = json!({
        "max_position_embeddings": 32_768, "use_sliding_window": false, "sliding_window": 4096,
        "max_window_layers": 28,
    });
    without(without_unused_window(with_defaults(defaults, json)), &["mlp_bias"])
}

/// Without settings that a family does not have, whatever a file says of them.
fn without(mut json: Value, names: &[&str]) -> Value {
    for name in names {
        json.as_object_mut().and_then(|settings| settings.remove(*name));
    }
    json
}

/// Without a window that is switched off.
fn without_unused_window(mut json: Value) -> Value {
    if json["use_sliding_window"] != json!(true) {
        json["sliding_window"] = Value::Null;
    }
    json
}

/// The first layers see everything, unless the file says otherwise for each.
fn qwen_layers(json: &Value, config: &DecoderConfig) -> Result<Vec<LayerDesign>, Error> {
    let first = whole(&json["max_window_layers"]).unwrap_or(0) as usize;
    layers(json, config, |layer| layer >= first, |_| true)
}

fn smollm3(json: &Value) -> Result<DecoderConfig, Error> {
    let defaults = json!({
        "max_position_embeddings": 32_768, "num_key_value_heads": 4, "use_sliding_window": false,
        "no_rope_layer_interval": 4, "rope_theta": 2_000_000.0, "tie_word_embeddings": true,
    });
    let json = without_unused_window(with_defaults(defaults, json));
    let config = DecoderConfig::parse(&json)?;
    let every = whole(&json["no_rope_layer_interval"]).filter(|every| *every > 0);
    let every = every.ok_or_else(|| {
        Error::Contradiction("no_rope_layer_interval is not a positive number".to_owned())
    })?;
    let marks = match &json["no_rope_layers"] {
        Value::Array(marks) if marks.len() >= config.num_hidden_layers => Some(marks),
        Value::Null => None,
        found => {
            let supported = "one mark for each layer is";
            return Err(unsupported("no_rope_layers", found, supported));
        }
    };
    // A mark of 1 says that a layer is rotated.
    let rotated = |layer: usize| match marks {
        Some(marks) => whole(&marks[layer]) != Some(0),
        None => !(layer as u64 + 1).is_multiple_of(every),
    };
    let layers = layers(&json, &config, |layer| !rotated(layer), rotated)?;
    Ok(config.designed(Design { layers, ..Design::default() }))
}

fn gemma3(json: &Value) -> Result<DecoderConfig, Error> {
    only(json, "hidden_activation", &[json!("gelu_pytorch_tanh")])?;
    for setting in ["final_logit_softcapping", "attn_logit_softcapping"] {
        only(json, setting, &[Value::Null])?;
    }
    only(json, "use_bidirectional_attention", &[json!(false), Value::Null])?;
    let defaults = json!({
        "max_position_embeddings": 131_072, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "tie_word_embeddings": true, "query_pre_attn_scalar": 256, "sliding_window": 4096,
        "sliding_window_pattern": 6,
    });
    let json = without(with_defaults(defaults, json), &["mlp_bias"]);
    let (global, local) = gemma3_rope(&json)?;
    let config = DecoderConfig { rope: global, ..DecoderConfig::sizes(&json)? };
    if json["sliding_window"].is_null() {
        return Err(unsupported("sliding_window", &Value::Null, "a positive number is"));
    }
    let every = whole(&json["sliding_window_pattern"]).unwrap_or(0) as usize;
    let scalar = json["query_pre_attn_scalar"].as_f64().filter(|scalar| *scalar > 0.0);
    let scalar = scalar.ok_or_else(|| {
        Error::Contradiction("query_pre_attn_scalar is not a positive number".to_owned())
    })?;
    let layers = layers(&json, &config, |layer| !(layer + 1).is_multiple_of(every), |_| true)?;
    Ok(config.designed(Design {
        activation: GateActivation::GeluTanh,
        head_norms: true,
        output_norms: true,
        unit_offset: true,
        scaled_embedding: true,
        query_scalar: Some(scalar),
        local_rope: Some(local),
        layers,
        ..Design::default()
    }))
}

/// Rotations of the layers that see everything, and of those with a window.
fn gemma3_rope(json: &Value) -> Result<(Rotary, Rotary), Error> {
    let given = rope::setting(json, "rope_parameters").unwrap_or_default();
    let of = |kind: &str, older: Value, base: &str, theta: f64| {
        let given = rope::setting(&given, kind).unwrap_or_else(|| json!({}));
        let given = with_defaults(given, &older);
        let theta = rope::setting(json, base).and_then(|theta| theta.as_f64()).unwrap_or(theta);
        let rest = json!({ "max_position_embeddings": json["max_position_embeddings"] });
        rope::of(&given, &rest, theta)
    };
    let scaling = rope::older(json).unwrap_or_default();
    Ok((
        of("full_attention", scaling, "rope_theta", 1_000_000.0)?,
        of("sliding_attention", Value::Null, "rope_local_base_freq", 10_000.0)?,
    ))
}

/// The window of the layers that have one.
fn window(json: &Value) -> Result<Option<usize>, Error> {
    match &json["sliding_window"] {
        Value::Null => Ok(None),
        value => match whole(value).filter(|window| *window > 0) {
            Some(window) => Ok(Some(window as usize)),
            None => Err(unsupported("sliding_window", value, "null or a positive number is")),
        },
    }
}

/// A design for each layer: by `layer_types` if the file has them, otherwise by rule.
fn layers(
    json: &Value,
    config: &DecoderConfig,
    is_windowed: impl Fn(usize) -> bool,
    is_rotated: impl Fn(usize) -> bool,
) -> Result<Vec<LayerDesign>, Error> {
    let window = window(json)?;
    let types = json["layer_types"].as_array();
    let kind = |layer: usize| match types {
        None => Ok(is_windowed(layer)),
        Some(types) => match types.get(layer).and_then(Value::as_str) {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => {
                let found = types.get(layer).unwrap_or(&Value::Null);
                let supported = "\"full_attention\" or \"sliding_attention\" for each layer is";
                Err(unsupported("layer_types", found, supported))
            }
        },
    };
    let layer = |layer: usize| {
        let window = if kind(layer)? { window } else { None };
        Ok(LayerDesign { window, rotated: is_rotated(layer) })
    };
    (0..config.num_hidden_layers).map(layer).collect()
}
