//! Continuing a text, token by token.

use std::collections::BTreeSet;

use burn::tensor::Tensor;

use crate::sample::Sampler;
use crate::{Cache, Error, Model, ModelFolder, Sampling};

/// What to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Tokens to add at most.
    pub max_new: usize,
    /// How they are chosen.
    pub sampling: Sampling,
    /// Tokens after which the text ends; they are not part of it.
    pub stop: BTreeSet<u32>,
    /// Positions of the model; the text ends there too.
    pub context: usize,
}

impl Generation {
    /// Greedy, up to `max_new` tokens or the end the checkpoint names.
    pub fn new(checkpoint: &ModelFolder, max_new: usize) -> Self {
        Self {
            max_new,
            sampling: Sampling::GREEDY,
            stop: checkpoint.stop().clone(),
            context: checkpoint.config().context(),
        }
    }
}

/// Continues `prompt` and returns what is new; `on_token` is called with each token as soon as it is chosen.
///
/// # Errors
/// If the prompt is empty, has tokens the model does not know or more of them than the model has positions, if a
/// setting is out of range, if the device fails, or what `on_token` returns.
pub fn generate<E: From<Error>>(
    model: &Model,
    prompt: &[u32],
    generation: &Generation,
    mut on_token: impl FnMut(u32) -> Result<(), E>,
) -> Result<Vec<u32>, E> {
    let mut sampler = Sampler::new(&generation.sampling)?;
    check(model, prompt, generation.context)?;
    let mut cache = model.cache();
    let mut new: Vec<u32> = Vec::new();
    while new.len() < generation.max_new && cache.len() < generation.context {
        let seen = if new.is_empty() { prompt } else { &new[new.len() - 1..] };
        let token = sampler.pick(&next_scores(model, seen, &mut cache)?);
        if generation.stop.contains(&token) {
            break;
        }
        new.push(token);
        on_token(token)?;
    }
    Ok(new)
}

/// Scores of the token after `tokens`, which continue the text of the cache.
///
/// # Errors
/// If the device fails, or a score is infinite or not a number.
///
/// # Panics
/// If there are no tokens.
pub fn next_scores(model: &Model, tokens: &[u32], cache: &mut Cache) -> Result<Vec<f32>, Error> {
    let last = tokens.len() - 1;
    let hidden = model.hidden(model.tokens(&[tokens]), Some(cache)).slice_dim(1, last..last + 1);
    let scores = to_host(model.logits(hidden))?;
    match scores.iter().all(|score| score.is_finite()) {
        true => Ok(scores),
        false => Err(Error::NotFinite("a token's score")),
    }
}

/// The numbers of a tensor in single precision.
pub(crate) fn to_host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, Error> {
    let data = tensor.try_into_data().map_err(|error| format!("{error:?}"));
    let numbers = data.and_then(|data| {
        data.convert::<f32>().try_into_vec::<f32>().map_err(|error| format!("{error:?}"))
    });
    numbers.map_err(Error::Device)
}

/// Refuses a text that the model cannot continue.
fn check(model: &Model, prompt: &[u32], context: usize) -> Result<(), Error> {
    if prompt.is_empty() {
        let what = "the prompt is empty: give the model at least one token to continue";
        return Err(Error::TooShort(what.to_string()));
    }
    Error::fits(prompt.len(), context)?;
    check_tokens(model, prompt)
}

/// Refuses tokens outside the vocabulary.
pub(crate) fn check_tokens(model: &Model, tokens: &[u32]) -> Result<(), Error> {
    let vocabulary = model.vocabulary();
    match tokens.iter().find(|token| **token as usize >= vocabulary) {
        Some(&token) => Err(Error::Token { token, vocabulary }),
        None => Ok(()),
    }
}
