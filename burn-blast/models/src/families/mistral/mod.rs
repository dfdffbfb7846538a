//! Mistral: a Llama with other defaults, whose attention may see a window of positions only.

use serde_json::{Value, json};

use super::LlamaConfig;
use crate::Error;

/// Values that transformers' `MistralConfig` takes for settings that a file leaves out.
const DEFAULTS: [(&str, u64); 3] =
    [("max_position_embeddings", 131_072), ("num_key_value_heads", 8), ("sliding_window", 4096)];

/// The Llama that computes what a Mistral of this configuration does.
///
/// # Errors
/// As for a Llama, and if attention has a window that is shorter than the positions.
pub(super) fn parse(config: &Value) -> Result<LlamaConfig, Error> {
    let mut config = config.clone();
    for (name, default) in DEFAULTS {
        if config.get(name).is_none() {
            config[name] = json!(default);
        }
    }
    let positions = config["max_position_embeddings"].as_u64();
    match config["sliding_window"].as_u64() {
        Some(window) if positions.is_some_and(|positions| window < positions) => {
            Err(Error::Unsupported {
                setting: "sliding_window",
                found: window.to_string(),
                supported: "only null, or a window of all positions, is",
            })
        }
        _ => LlamaConfig::parse(&config),
    }
}
