//! Writes text with a checkpoint, scores a text by it, or times it.

mod bench;
mod cli;
mod shrink;

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use burn_blast_models::{Activations, Checkpoint, Generation, Model, Sampling, Windows};
use clap::Parser;
use indicatif::ProgressBar;

use cli::{ActivationsArgs, Args, Command, GenerateArgs, ModelArgs, PerplexityArgs};

/// Most tokens a window has by default: what one pass of attention over it costs grows with its square.
const DEFAULT_WINDOW: usize = 1024;

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Generate(args) => generate(&args),
        Command::Perplexity(args) => perplexity(&args),
        Command::Bench(args) => {
            let (checkpoint, model) = open(&args.model)?;
            bench::run(&checkpoint, model, &args)
        }
        Command::Activations(args) => activations(&args),
        Command::Compact(args) => shrink::run(&args),
    }
}

fn open(args: &ModelArgs) -> Result<(Checkpoint, Model)> {
    let device = args.backend.open()?;
    let checkpoint = Checkpoint::open(&args.model)?;
    let mut model = checkpoint.load(&device, args.precision())?;
    if args.compact {
        let before = model.clone();
        model = model.compact();
        // What the commands print is their result.
        eprintln!("{}", shrink::parameters(&before, &model));
    }
    if args.int8 {
        model = burn_blast::module::quantize(model).context("--int8")?;
    }
    Ok((checkpoint, model))
}

/// Prints the prompt and its continuation, piece by piece as it comes.
fn generate(args: &GenerateArgs) -> Result<()> {
    let (checkpoint, model) = open(&args.model)?;
    let tokenizer = checkpoint.tokenizer()?;
    let prompt = tokenizer.encode(&args.prompt)?;
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: args.seed,
    };
    let request = Generation { sampling, ..Generation::new(&checkpoint, args.max_new) };
    let mut out = std::io::stdout().lock();
    let mut stream = tokenizer.stream();
    // The prompt goes through the stream too: how a tokenizer spaces a word depends on the one before.
    for token in &prompt {
        write!(out, "{}", stream.push(*token)?)?;
    }
    out.flush()?;
    burn_blast_models::generate(&model, &prompt, &request, |token| -> Result<()> {
        write!(out, "{}", stream.push(token)?)?;
        Ok(out.flush()?)
    })?;
    writeln!(out, "{}", stream.finish()?)?;
    Ok(())
}

/// Prints the perplexity of a text file, and how it was cut.
fn perplexity(args: &PerplexityArgs) -> Result<()> {
    let text = read_text(&args.text)?;
    let (checkpoint, model) = open(&args.model)?;
    let tokens = checkpoint.tokenizer()?.encode(&text)?;
    let window = window(&checkpoint, args.window)?;
    let windows = Windows { window, stride: args.stride.unwrap_or((window / 2).max(1)) };
    // Hidden where there is no terminal.
    let bar = ProgressBar::new(tokens.len().saturating_sub(1) as u64);
    let score = burn_blast_models::perplexity(&model, &tokens, windows, |done| {
        bar.set_position(done as u64)
    })?;
    bar.finish_and_clear();
    println!("perplexity {:.4}", score.perplexity());
    println!(
        "{:.4} nats a token, {:.4} bits a byte of text",
        score.nats / score.tokens as f64,
        score.nats / std::f64::consts::LN_2 / text.len() as f64
    );
    println!("{} tokens, window {}, stride {}", score.tokens, window, windows.stride);
    Ok(())
}

/// Writes norms of what the MLPs take over a text.
fn activations(args: &ActivationsArgs) -> Result<()> {
    anyhow::ensure!(
        !args.model.compact && !args.model.int8,
        "--compact and --int8 are not for activations: the weights they are for are those of the file"
    );
    let text = read_text(&args.text)?;
    let (checkpoint, model) = open(&args.model)?;
    let mut tokens = checkpoint.tokenizer()?.encode(&text)?;
    tokens.truncate(args.tokens);
    let window = window(&checkpoint, args.window)?;
    // Hidden where there is no terminal.
    let bar = ProgressBar::new(tokens.len() as u64);
    let found =
        Activations::collect(&model, &tokens, window, |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    found.save(checkpoint.config(), &args.out)?;
    println!(
        "{} is written: {} weights, {} tokens",
        args.out.display(),
        found.norms.len(),
        tokens.len()
    );
    Ok(())
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the text {}", path.display()))
}

/// The window asked for, or one that suits the model.
fn window(checkpoint: &Checkpoint, asked: Option<usize>) -> Result<usize> {
    let context = checkpoint.config().context();
    let window = asked.unwrap_or(context.min(DEFAULT_WINDOW));
    anyhow::ensure!(
        window <= context,
        "--window {window} is larger than the {context} positions the model was made for"
    );
    Ok(window)
}
