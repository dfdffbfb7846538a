//! Llama, Mistral and GPT-2, dense or with block-sparse weights: loaded as published, run, sparsified, trained on,
//! measured.
//!
//! ```text
//! folder ─► ModelFolder ─► Model ─► generate, perplexity, measure ─► text, numbers
//!                │          │ ▲
//!                │          │ └─ one_shot, fine_tune, adapt, merge, compact
//!                │          └► ModelFolder::save ─► folder
//!                └► Tokenizer
//! ```
//!
//! | module | content |
//! |---|---|
//! | `families/` | configuration and architecture of each family, one folder each |
//! | `model_folder` | folders: opened, loaded, written |
//! | `builder`, `attention`, `rope` | what models are made of |
//! | `model`, `compact`, `adapters` | what every model can do |
//! | `tokenizer`, `sample`, `generate`, `perplexity` | running a model |
//! | `corpus`, `activations`, [`one_shot`], [`fine_tune`] | texts, and what is learnt from them |
//! | `measure`, `quartiles`, `device` | timing, and where to compute |
//!
//! # Example
//! ```no_run
//! use burn::tensor::Device;
//! use burn_blast_models::{Generation, ModelFolder, Precision, generate};
//!
//! let checkpoint = ModelFolder::open("Llama-3.2-1B")?;
//! let tokenizer = checkpoint.tokenizer()?;
//! let model = checkpoint.load(&Device::flex(), Precision::F32)?;
//! let prompt = tokenizer.encode("The capital of France is")?;
//! let request = Generation::new(&checkpoint, 8);
//! let new = generate::<burn_blast_models::Error>(&model, &prompt, &request, |_| Ok(()))?;
//! println!("{}", tokenizer.decode(&new)?);
//! # Ok::<(), burn_blast_models::Error>(())
//! ```
//!
//! A model from its sizes, with weights drawn from a seed:
//!
//! ```
//! use burn::tensor::Device;
//! use burn_blast_models::{ModelConfig, LlamaConfig};
//!
//! let sizes = LlamaConfig { hidden_size: 64, num_attention_heads: 4, head_dim: 16, ..LlamaConfig::default() };
//! let mut model = ModelConfig::Llama(sizes).init(&Device::flex(), 7)?;
//! for (_, linear) in model.mlps_mut(0) {
//!     linear.pack(32)?;
//! }
//! assert_eq!(model.forward(model.tokens(&[b"text".map(u32::from).as_slice()]), None).dims(), [1, 4, 256]);
//! # Ok::<(), burn_blast_models::Error>(())
//! ```
//!
//! # Features
//! - `flex` (default), `ndarray`, `wgpu`, `vulkan`, `metal`, `cuda`, `rocm`: backends
//! - `tokenizers` (default): reads `tokenizer.json`; without it, tokens are bytes
//! - `calibrate` (default): [`one_shot`]
//! - `clap`: the enums of settings are values of options
//! - `ctrlc`: a run stops on Ctrl-C

mod activations;
mod adapters;
mod attention;
mod builder;
mod compact;
mod corpus;
mod device;
mod error;
mod families;
pub mod fine_tune;
mod generate;
mod measure;
mod model;
mod model_folder;
#[cfg(feature = "calibrate")]
pub mod one_shot;
mod perplexity;
mod quartiles;
mod rope;
mod sample;
mod tokenizer;

pub use activations::Activations;
pub use attention::Cache;
pub use compact::LayerSizes;
pub use corpus::{Batch, Corpus, Sequences, read_text};
pub use device::{BackendKind, NotBuilt};
pub use error::Error;
pub use families::{Gpt2, Gpt2Config, Llama, LlamaConfig, Model, ModelConfig};
pub use generate::{Generation, generate, next_scores};
pub use measure::{LinearStorage, Round, Timing};
pub use model::Blocks;
pub use model_folder::{Form, ModelFolder, Precision};
pub use perplexity::{TextScore, Windows, perplexity};
pub use quartiles::Quartiles;
pub use rope::{Rope, RopeScaling};
pub use sample::Sampling;
pub use tokenizer::{TextStream, Tokenizer};

/// The code in the README is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
