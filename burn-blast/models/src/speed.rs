//! How long a model takes for a prompt, and for the tokens after it.

use std::time::Instant;

use crate::{Error, Model, next_scores};

/// Seconds of one round, at batch 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// Of the prompt as a whole.
    pub prefill: f64,
    /// Of each token after it.
    pub decode: Vec<f64>,
}

impl Round {
    /// Runs a prompt of `prefill` tokens, then `decode` tokens one by one. The text is always the same and means
    /// nothing.
    ///
    /// # Errors
    /// If the device fails.
    pub fn run(model: &Model, prefill: usize, decode: usize) -> Result<Self, Error> {
        let vocabulary = model.vocabulary();
        let text: Vec<u32> =
            (0..prefill + decode).map(|at| (at * 31 % vocabulary) as u32).collect();
        let (prompt, rest) = text.split_at(prefill);
        let mut cache = model.cache();
        // Scores come back to the host, so the device is done when the clock is read.
        let mut seconds = |tokens: &[u32]| -> Result<f64, Error> {
            let clock = Instant::now();
            next_scores(model, tokens, &mut cache)?;
            Ok(clock.elapsed().as_secs_f64())
        };
        let prefill = seconds(prompt)?;
        let decode = rest.chunks(1).map(&mut seconds).collect::<Result<_, _>>()?;
        Ok(Self { prefill, decode })
    }
}
