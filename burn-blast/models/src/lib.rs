//! Llama and GPT-2 checkpoints, as published, in dense or block-sparse models.
//!
//! ```text
//! folder ─► Checkpoint ─► Model ─► generate, perplexity ─► text, numbers
//!               │           ▲
//!               └► Tokenizer ┘ tokens
//! ```
//!
//! | file | what lives there |
//! |---|---|
//! | `checkpoint/` | folders: opened, loaded, written |
//! | `config.rs`, `rope.rs` | `config.json`; rotary positions |
//! | `llama.rs`, `gpt2.rs` | the architectures, named as their checkpoints are |
//! | `attention.rs`, `linear.rs` | what both are made of |
//! | `model.rs` | one type for both |
//! | `activations.rs` | norms of what the MLPs take |
//! | `compact.rs` | models without dead hidden features and heads |
//! | `tokenizer.rs`, `sample.rs`, `generate.rs`, `perplexity.rs` | what one does with a model |
//!
//! # Example
//! ```no_run
//! use burn::tensor::Device;
//! use burn_blast_models::{Checkpoint, Generation, Precision, generate};
//!
//! let checkpoint = Checkpoint::open("Llama-3.2-1B")?;
//! let tokenizer = checkpoint.tokenizer()?;
//! let model = checkpoint.load(&Device::flex(), Precision::F32)?;
//! let prompt = tokenizer.encode("The capital of France is")?;
//! let new = generate::<burn_blast_models::Error>(&model, &prompt, &Generation::new(&checkpoint, 8), |_| Ok(()))?;
//! println!("{}", tokenizer.decode(&new)?);
//! # Ok::<(), burn_blast_models::Error>(())
//! ```

mod activations;
mod attention;
mod builder;
mod checkpoint;
mod compact;
mod error;
mod families;
mod generate;
mod model;
mod perplexity;
mod rope;
mod sample;
mod speed;
mod tokenizer;

pub use activations::Activations;
pub use attention::Cache;
pub use checkpoint::{Checkpoint, Form, Precision};
pub use compact::LayerSizes;
pub use error::Error;
pub use example_backend::{Backend, NotBuilt, Quartiles};
pub use families::{Config, Gpt2, Gpt2Config, Llama, LlamaConfig, Model};
pub use generate::{Generation, generate, next_scores};
pub use perplexity::{Score, Windows, perplexity};
pub use rope::{Rope, RopeScaling};
pub use sample::Sampling;
pub use speed::Round;
pub use tokenizer::{TextStream, Tokenizer};

/// The code in the README is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
