//! What a run and a model look like: a table by layer, the run ledger, plots.

mod ledger;
#[cfg(feature = "plot")]
pub mod plot;
mod summary;

pub(crate) use ledger::Ledger;
pub use summary::{LayerSummary, ModelSummary, summary};
