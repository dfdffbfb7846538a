//! The model of all runs: a Llama over bytes.

use std::collections::BTreeSet;

use anyhow::Result;
use burn::tensor::Device;
use burn_blast_models::{DecoderConfig, Error, Generation, Model, Sampling, generate};

use crate::config::{Config, VOCABULARY};

/// Text the trained model continues.
const PROMPT: &str = "fn ";

/// Bytes it adds.
const SAMPLE_LENGTH: usize = 300;

/// Spread of the sampling.
const TEMPERATURE: f64 = 0.8;

/// The dense model. Its weights follow from `seed` alone.
pub fn dense(config: &Config, seed: u64, device: &Device) -> Result<Model> {
    let sizes = DecoderConfig {
        vocab_size: VOCABULARY,
        hidden_size: config.d_model,
        intermediate_size: config.d_ff,
        num_hidden_layers: config.layers,
        num_attention_heads: config.heads,
        num_key_value_heads: config.heads,
        head_dim: config.d_model / config.heads,
        max_position_embeddings: config.context,
        tie_word_embeddings: false,
        ..DecoderConfig::default()
    };
    Ok(burn_blast_models::ModelConfig::Decoder(sizes).init(device, seed)?)
}

/// Continues [`PROMPT`] by [`SAMPLE_LENGTH`] bytes. The model sees at most `context` of them: when these are full, it
/// goes on from their last half.
pub fn sample(model: &Model, context: usize, seed: u64) -> Result<String> {
    let mut text: Vec<u32> = PROMPT.bytes().map(u32::from).collect();
    let end = text.len() + SAMPLE_LENGTH;
    while text.len() < end {
        let seed = seed + text.len() as u64;
        let generation = Generation {
            max_new: end - text.len(),
            sampling: Sampling { temperature: TEMPERATURE, top_k: None, top_p: 1.0, seed },
            stop: BTreeSet::new(),
            context,
        };
        let seen = &text[text.len().saturating_sub(context / 2)..];
        text.extend(generate::<Error>(model, seen, &generation, |_| Ok(()))?);
    }
    let bytes: Vec<u8> = text.into_iter().map(|byte| byte as u8).collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn the_sample_has_its_length_whatever_the_context() {
        for context in [2, 3, 8] {
            let config = Config { context, d_model: 16, d_ff: 32, layers: 2, ..Config::default() };
            let model = dense(&config, 0, &Device::flex()).unwrap();
            let text = sample(&model, context, 7).unwrap();
            assert!(text.starts_with(PROMPT));
            assert_eq!(text, sample(&model, context, 7).unwrap());
            assert!(text.chars().count() <= PROMPT.len() + SAMPLE_LENGTH);
        }
    }
}
