//! How the target sparsity is shared among layers.

use serde::{Deserialize, Serialize};

/// Rule that shares the blocks to keep among layers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Budget {
    /// Every layer has the same sparsity.
    Uniform,
    /// Erdős–Rényi over the block grid: density follows `(rows + cols) / (rows · cols)`, so small layers
    /// keep more (SET, RigL).
    ErdosRenyi,
    /// All blocks compete, by score, whatever their layer; every layer keeps a density within bounds.
    /// Layers with a target of their own take no part. Every other layer must: while one is frozen or gets no
    /// gradient, all keep their uniform share, and the log says so.
    Global {
        /// Least density of a layer.
        min_density: f64,
        /// Greatest density of a layer.
        max_density: f64,
    },
}
