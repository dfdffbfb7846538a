//! Files of the programs that are not on the checkpoint crate yet.

mod files;

pub use burn_blast_models::{Backend, NotBuilt, Quartiles};
pub use files::{replace_file, temporary_beside};
