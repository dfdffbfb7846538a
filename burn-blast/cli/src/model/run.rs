//! `blast generate`, `perplexity` and `activations`.

use std::fmt;
use std::io::{self, Write};

use burn::tensor::DType;
use burn_blast_checkpoint::check_output;
use burn_blast_models::{
    Activations, ChatMessage, Generation, ModelFolder, Windows, perplexity as score,
};
use serde::Serialize;

use super::{open, texts};
use crate::args::{ActivationsArgs, GenerateArgs, PerplexityArgs};
use crate::error::Error;
use crate::progress::Progress;

/// Most tokens a window has by default: the cost of one pass of attention over it grows with its square.
const DEFAULT_WINDOW: usize = 1024;

/// Writes the prompt and its continuation to standard output, token by token.
pub fn generate(args: &GenerateArgs) -> Result<(), Error> {
    // Packing a model costs as much as it saves on so many tokens of a prompt, and on one token in a type of 16 bits.
    const WORTH_PACKING: usize = 160;
    let is_long = args.prompt.len() > 4 * WORTH_PACKING;
    args.sampling.check()?;
    let (checkpoint, model) = open(&args.model, |model| is_long || model.dtype() != DType::F32)?;
    let tokenizer = checkpoint.tokenizer()?;
    let prompt = match args.chat {
        true => tokenizer.encode_rendered(&chat(args, &checkpoint)?)?,
        false => tokenizer.encode(&args.prompt)?,
    };
    let sampling = args.sampling.clone();
    let request = Generation { sampling, ..Generation::new(&checkpoint, args.max_new) };
    let mut out = io::stdout().lock();
    let mut stream = tokenizer.stream();
    // The prompt passes through the stream too: how a tokenizer spaces a word depends on the one before.
    for token in prompt.iter().filter(|_| !args.chat) {
        write!(out, "{}", stream.push(*token)?)?;
    }
    out.flush()?;
    burn_blast_models::generate(&model, &prompt, &request, |token| -> Result<(), Error> {
        write!(out, "{}", stream.push(token)?)?;
        Ok(out.flush()?)
    })?;
    Ok(writeln!(out, "{}", stream.finish()?)?)
}

/// The prompt in the model's chat template.
fn chat(args: &GenerateArgs, checkpoint: &ModelFolder) -> Result<String, Error> {
    let system = args.system.as_ref().map(|text| ChatMessage::new("system", text));
    let user = ChatMessage::new("user", &args.prompt);
    let messages: Vec<ChatMessage> = system.into_iter().chain([user]).collect();
    Ok(checkpoint.chat_template()?.render(&messages)?)
}

/// The perplexity of a text, and how it was cut.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PerplexityReport {
    perplexity: f64,
    nats_per_token: f64,
    bits_per_byte: f64,
    tokens: usize,
    window: usize,
    stride: usize,
}

/// Scores a text.
pub fn perplexity(args: &PerplexityArgs, progress: &Progress) -> Result<PerplexityReport, Error> {
    let (checkpoint, model) = open(&args.model, |_| true)?;
    let texts = texts(&args.corpus, None, progress)?;
    let tokens = texts.tokens(&checkpoint.tokenizer()?)?;
    let window = window(&checkpoint, args.window)?;
    let windows = Windows { window, stride: args.stride.unwrap_or((window / 2).max(1)) };
    progress.count("scoring", tokens.len().saturating_sub(1));
    let score = score(&model, &tokens, windows, |done| progress.set(done))?;
    Ok(PerplexityReport {
        perplexity: score.perplexity(),
        nats_per_token: score.nats / score.tokens as f64,
        bits_per_byte: score.nats / std::f64::consts::LN_2 / texts.bytes() as f64,
        tokens: score.tokens,
        window,
        stride: windows.stride,
    })
}

impl fmt::Display for PerplexityReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "perplexity {:.4}", self.perplexity)?;
        writeln!(
            f,
            "{:.4} nats per token, {:.4} bits per byte of text",
            self.nats_per_token, self.bits_per_byte
        )?;
        write!(f, "{} tokens, window {}, stride {}", self.tokens, self.window, self.stride)
    }
}

/// Writes norms of the MLPs' inputs over a text.
pub fn activations(args: &ActivationsArgs, progress: &Progress) -> Result<String, Error> {
    let output = &args.out.output;
    check_output(Some(&args.model), false, output, args.out.force)?;
    args.device.check_dense()?;
    let device = args.device.open()?;
    let checkpoint = ModelFolder::open(&args.model)?;
    let model = checkpoint.load(&device, args.device.precision())?;
    let mut tokens =
        texts(&args.corpus, Some(output), progress)?.tokens(&checkpoint.tokenizer()?)?;
    tokens.truncate(args.tokens);
    let window = window(&checkpoint, args.window)?;
    progress.count("collecting", tokens.len());
    let found = Activations::collect(&model, &tokens, window, |done| progress.set(done))?;
    found.save(checkpoint.config(), output)?;
    let (weights, tokens) = (found.norms.len(), tokens.len());
    Ok(format!("{} is written: {weights} weights, {tokens} tokens", output.display()))
}

/// The window asked for, or one that suits the model.
fn window(checkpoint: &ModelFolder, asked: Option<usize>) -> Result<usize, Error> {
    let limit = checkpoint.config().context();
    match asked.unwrap_or(limit.min(DEFAULT_WINDOW)) {
        found if found > limit => Err(burn_blast_models::Error::TooLong { found, limit }.into()),
        window => Ok(window),
    }
}
