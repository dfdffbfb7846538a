//! Tables and plots of a model and a run.

#[cfg(feature = "plot")]
pub mod plot;
mod summary;

pub use summary::{LayerSummary, ModelSummary, summary};
