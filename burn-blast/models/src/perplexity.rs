//! Perplexity of a text.

use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Int, Tensor, TensorData};

use crate::generate::{check_tokens, to_host};
use crate::{Error, Model};

/// Positions whose scores over the vocabulary are held at a time: 64 MiB for 128 Ki tokens.
const ROWS: usize = 128;

/// How a text longer than the model's context is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Tokens the model sees at once.
    pub window: usize,
    /// Tokens from the start of one window to the next. Each token is scored once, in the first window that holds
    /// it, so a smaller stride gives more context and takes longer.
    pub stride: usize,
}

/// Negative log-likelihood of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextScore {
    /// Sum of the negative log-likelihoods, in nats.
    pub nats: f64,
    /// Tokens scored: all but the first.
    pub tokens: usize,
}

impl TextScore {
    /// `exp(nats / tokens)`.
    pub fn perplexity(&self) -> f64 {
        (self.nats / self.tokens as f64).exp()
    }
}

/// Scores a text by a sliding window.
///
/// `progress` is called with the number of tokens scored after each window.
///
/// # Errors
/// If the text is shorter than two tokens or has tokens the model does not know, if the windows do not fit each other,
/// the loss is infinite or not a number, or the device fails.
pub fn perplexity(
    model: &Model,
    text: &[u32],
    windows: Windows,
    mut progress: impl FnMut(usize),
) -> Result<TextScore, Error> {
    let Windows { window, stride } = windows;
    check(window, stride, text.len())?;
    check_tokens(model, text)?;
    let mut score = TextScore { nats: 0.0, tokens: 0 };
    let mut start = 0;
    // The first token has nothing before it.
    while score.tokens + 1 < text.len() {
        let end = (start + window).min(text.len());
        let from = score.tokens + 1;
        score.nats += nats(model, &text[start..end], from - start)?;
        if !score.nats.is_finite() {
            return Err(Error::NotFinite("the loss of the text"));
        }
        score.tokens = end - 1;
        progress(score.tokens);
        start += stride;
    }
    Ok(score)
}

fn check(window: usize, stride: usize, tokens: usize) -> Result<(), Error> {
    if window < 2 {
        return Err(Error::setting("window", window, "at least 2"));
    }
    // The first token of a window is not scored in it, so it must have been scored before.
    if !(1..window).contains(&stride) {
        return Err(Error::setting("stride", stride, "at least 1 and below the window"));
    }
    if tokens < 2 {
        let what =
            format!("the text has {tokens} tokens, but needs at least 2: the first is not scored");
        return Err(Error::TooShort(what));
    }
    Ok(())
}

/// Negative log-likelihood of the tokens from position `from` on, given all before them.
fn nats(model: &Model, text: &[u32], from: usize) -> Result<f64, Error> {
    let hidden = model.hidden(model.tokens(&[&text[..text.len() - 1]]), None);
    let device = hidden.device();
    let mut sum = 0.0;
    for start in (from..text.len()).step_by(ROWS) {
        let end = (start + ROWS).min(text.len());
        // The scores of a token are computed at the token before it.
        let logits = model.logits(hidden.clone().slice_dim(1, start - 1..end - 1));
        let log_shares = log_softmax(logits.cast(DType::F32), 2);
        let targets: Vec<i32> = text[start..end].iter().map(|token| *token as i32).collect();
        let targets = TensorData::new(targets, [1, end - start, 1]);
        let chosen = log_shares.gather(2, Tensor::<3, Int>::from_data(targets, &device));
        sum -= to_host(chosen)?.into_iter().map(f64::from).sum::<f64>();
    }
    Ok(sum)
}
