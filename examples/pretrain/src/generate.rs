//! Writes text with a trained model, byte by byte.

use anyhow::{Result, anyhow};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::model::{Llama, VOCABULARY};

/// What to write.
#[derive(Clone, Debug)]
pub struct Prompt<'a> {
    /// How the text starts; at least one byte.
    pub start: &'a str,
    /// Bytes to add.
    pub length: usize,
    /// Below 1 the likely bytes become likelier.
    pub temperature: f64,
    /// The same seed gives the same text.
    pub seed: u64,
}

/// Continues a prompt. The model sees at most the last `context` bytes; `model` is best without autodiff.
///
/// # Errors
/// If the device does not return the scores.
pub fn generate(model: &Llama, prompt: &Prompt, context: usize, device: &Device) -> Result<String> {
    let mut random = ChaCha8Rng::seed_from_u64(prompt.seed);
    let mut text = prompt.start.as_bytes().to_vec();
    for _ in 0..prompt.length {
        let window = &text[text.len().saturating_sub(context)..];
        let tokens: Vec<i32> = window.iter().map(|byte| i32::from(*byte)).collect();
        let time = tokens.len();
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, time]), device);
        let last = model.forward(tokens).slice([0..1, time - 1..time, 0..VOCABULARY]);
        let logits = last.into_data().convert::<f32>().try_to_vec::<f32>();
        let logits =
            logits.map_err(|error| anyhow!("the device did not return the scores: {error:?}"))?;
        text.push(sample(&logits, prompt.temperature, random.random()));
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The byte at `point`, from 0 to 1, of the softmax laid out in a line.
fn sample(logits: &[f32], temperature: f64, point: f64) -> u8 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: &f32| (f64::from(logit - highest) / temperature).exp();
    let mut left = point * logits.iter().map(weight).sum::<f64>();
    for (byte, logit) in logits.iter().enumerate() {
        left -= weight(logit);
        if left < 0.0 {
            return byte as u8;
        }
    }
    // Reached by rounding only.
    (logits.len() - 1) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_follows_the_scores() {
        let mut logits = vec![f32::NEG_INFINITY; VOCABULARY];
        logits[65] = 0.0;
        logits[66] = 0.0;
        assert_eq!(sample(&logits, 0.8, 0.25), 65);
        assert_eq!(sample(&logits, 0.8, 0.75), 66);
    }

    #[test]
    fn a_low_temperature_takes_the_likeliest_byte() {
        let mut logits = vec![0.0; VOCABULARY];
        logits[200] = 1.0;
        assert!([0.0, 0.5, 0.999].iter().all(|point| sample(&logits, 1e-3, *point) == 200));
    }
}
