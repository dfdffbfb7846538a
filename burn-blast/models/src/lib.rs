#![doc = include_str!("../README.md")]
//!
//! ## Modules
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
//! | `families/` | configurations and architectures: GPT-2, and the decoder of all other families |
//! | `model_folder`, `parts` | folders: opened, loaded whole or in parts, written |
//! | `builder`, `attention`, `rope` | what models are made of |
//! | `model`, `compact`, `adapters`, `host` | what every model can do |
//! | `chat`, `tokenizer`, `sample`, `generate`, `perplexity` | running a model |
//! | `texts`, `corpus`, `activations`, `importance`, [`one_shot`], [`fine_tune`], [`recover`] | texts, and what is learnt from them |
//! | `measure`, `device`, `parallel`, `memory`, `warnings` | timing, where to compute, threads, memory, and what programs show |

mod activations;
mod adapters;
mod attention;
mod blocks;
mod builder;
#[cfg(feature = "chat")]
mod chat;
mod compact;
mod corpus;
mod device;
mod error;
mod families;
pub mod fine_tune;
mod generate;
mod host;
#[cfg(feature = "calibrate")]
mod importance;
mod measure;
mod memory;
mod model;
mod model_folder;
#[cfg(feature = "calibrate")]
pub mod one_shot;
mod parallel;
#[cfg(feature = "calibrate")]
mod parts;
mod perplexity;
#[cfg(feature = "calibrate")]
pub mod recover;
mod rope;
mod sample;
mod texts;
mod tokenizer;
mod warnings;

pub use activations::Activations;
pub use attention::Cache;
pub use blocks::{Blocks, Role};
#[cfg(feature = "chat")]
pub use chat::{ChatMessage, ChatTemplate};
pub use compact::LayerSizes;
pub use corpus::{Batch, Corpus, Sequences};
pub use device::BackendKind;
pub use error::Error;
pub use families::{
    Decoder, DecoderConfig, Design, GateActivation, Gpt2, Gpt2Config, LayerDesign, Model,
    ModelConfig,
};
pub use generate::{Generation, generate, next_scores};
#[cfg(feature = "calibrate")]
pub use importance::Importance;
pub use measure::{LinearStorage, Quartiles, Round, Timing};
pub use memory::keep_memory;
pub use model_folder::{Form, ModelFolder, Precision};
pub use perplexity::{TextScore, Windows, perplexity};
pub use rope::{Rope, RopeScaling, Rotary};
pub use sample::Sampling;
pub use texts::{Document, Texts, files_under, relative_name};
pub use tokenizer::{TextStream, Tokenizer};
pub use warnings::show_warnings;
