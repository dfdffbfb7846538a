//! Counts of a run, for reports.

use std::sync::Arc;

use super::ledger::LayerSnapshot;
use super::shared::Shared;

/// Counts over all layers after the latest update.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Optimizer steps taken.
    pub step: usize,
    /// Share of blocks removed from the layers that are pruned.
    pub sparsity: f64,
    /// Blocks dropped and added by the latest update, divided by the blocks kept; may be above 1.
    pub churn: f64,
    /// Bytes of all block-sparse weights and their indices.
    pub weight_bytes: usize,
    /// Bytes of the same weights dense.
    pub dense_bytes: usize,
    /// Every layer, in the order of the model.
    pub layers: Vec<LayerSnapshot>,
}

/// A view of a run for progress bars, metrics and plots. Cheap to clone and readable from any thread.
#[derive(Debug, Clone)]
pub struct Monitor(pub(super) Arc<Shared>);

impl Monitor {
    /// The counts now.
    pub fn snapshot(&self) -> Snapshot {
        let (step, layers) = self.0.counts();
        let pruned = || layers.iter().filter(|layer| !layer.dense);
        let sum = |count: fn(&LayerSnapshot) -> usize| pruned().map(count).sum::<usize>() as f64;
        let (kept, blocks) = (sum(|layer| layer.kept), sum(|layer| layer.blocks));
        let moved = sum(|layer| layer.pruned + layer.regrown);
        Snapshot {
            step,
            sparsity: if blocks > 0.0 { 1.0 - kept / blocks } else { 0.0 },
            churn: if kept > 0.0 { moved / kept } else { 0.0 },
            weight_bytes: layers.iter().map(|layer| layer.bytes).sum(),
            dense_bytes: layers.iter().map(|layer| layer.dense_bytes).sum(),
            layers,
        }
    }
}
