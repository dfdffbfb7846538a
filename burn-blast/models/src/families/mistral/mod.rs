//! Mistral: a Llama with other defaults, whose attention may see a window of positions only.

use serde_json::{Value, json};

use super::{LlamaConfig, unsupported, with_defaults};
use crate::Error;

/// The Llama that computes what a Mistral of this configuration does.
///
/// # Errors
/// As for a Llama, and if attention has a window that is shorter than the positions.
pub(super) fn parse(config: &Value) -> Result<LlamaConfig, Error> {
    // As transformers' `MistralConfig`.
    let defaults = json!({
        "max_position_embeddings": 131_072, "num_key_value_heads": 8, "sliding_window": 4096,
    });
    let config = with_defaults(defaults, config);
    let (window, positions) = (&config["sliding_window"], &config["max_position_embeddings"]);
    match (window.as_u64(), positions.as_u64()) {
        (Some(shorter), Some(positions)) if shorter < positions => {
            let supported = "only null, or a window of all positions, is";
            Err(unsupported("sliding_window", window, supported))
        }
        _ => LlamaConfig::parse(&config),
    }
}
