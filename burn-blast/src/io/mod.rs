//! Files: models with block-sparse layers in one call, whatever they keep.
//!
//! Burn refuses a record whose shapes differ from the model's, and a fresh model keeps another number of
//! blocks than a trained one. [`load`] therefore reads and checks the whole file, gives the model the
//! file's patterns, and only then fills it. A model is loaded whole or not at all.
//!
//! Files are written under a temporary name and renamed.
//!
//! | record entry | shape | content |
//! |---|---|---|
//! | `<layer>.weight.values` | `[nnz, b, b]` | kept blocks, see [`burn_blast_kernels::pattern`] |
//! | `<layer>.weight.row_idx` | `[nnz]` | block row of each |
//! | `<layer>.weight.col_ptr` | `[block_cols + 1]` | start of each block column |
//! | `<layer>.weight.layout` | `[5]` | format version, block, `d_input`, `d_output`, probe present |
//! | `<layer>.weight.probe` | `[block_rows, block_cols]` | only one step ahead of a gradient update |
//!
//! A file that holds a dense `<layer>.weight` of `[d_input, d_output]` instead loads too: its non-zero blocks
//! are packed.

mod entries;
mod error;
mod fill;
mod fit;
mod optimizer;
mod record;
#[cfg(feature = "safetensors")]
mod safetensors;

pub use burn_blast_checkpoint::format::LayoutError;
pub use error::IoError;
pub use optimizer::{load_optimizer, save_optimizer};
pub use record::{from_bytes, load, save, size_to, to_bytes};
#[cfg(feature = "safetensors")]
pub use safetensors::{load_safetensors, save_safetensors};
