//! What can be wrong with a pruning run.

use std::path::PathBuf;

use burn_blast_kernels::PatternError;
use thiserror::Error;

/// Why a pruning run was refused or stopped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BlastError {
    /// A number of the configuration is out of range.
    #[error("{name} is {found}, but must be {expected}")]
    Config {
        /// Field of [`BlastConfig`](super::BlastConfig).
        name: &'static str,
        /// Its value.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// The model has nothing to prune.
    #[error(
        "the model has no BlockSparseLinear layer and no linear layer was selected: use the layer type, or BlastConfig::with_linear for plain nn::Linear"
    )]
    NothingToPrune,
    /// A path filter matches no layer.
    #[error("the path \"{filter}\" matches no layer; the layers are: {layers}")]
    FilterMatchesNothing {
        /// The filter.
        filter: String,
        /// Paths there are.
        layers: String,
    },
    /// A layer that was to be pruned holds quantised values.
    #[error(
        "the weight of \"{layer}\" is quantised: prune first, then quantise, or keep the layer as it is with BlastConfig::with_dense"
    )]
    Quantized {
        /// Its path.
        layer: String,
    },
    /// No two layers below a path can share a pattern.
    #[error(
        "no two layers in \"{filter}\" can be tied: they must be pruned, in the same module, and of one shape and block size"
    )]
    NothingToTie {
        /// The filter.
        filter: String,
    },
    /// No layers share features.
    #[error(
        "no module in \"{path}\" has layers that share features: use BlockSparseGatedMlp or BlockSparseMlp, or name the layers with BlastConfig::with_couplings, and plain ones with_linear too"
    )]
    NothingToCouple {
        /// Path that was searched; empty for the whole model.
        path: String,
    },
    /// A layer would select its blocks with two others.
    #[error("layer \"{layer}\" is in two couplings: name it in one")]
    CoupledTwice {
        /// Its path.
        layer: String,
    },
    /// A layer of a coupling does not fit the others.
    #[error(
        "layer \"{layer}\" has {features} features to share in blocks of {block}: they must be {expected}"
    )]
    CouplingDoesNotFit {
        /// Its path.
        layer: String,
        /// Features on the side that is shared.
        features: usize,
        /// Side of its blocks.
        block: usize,
        /// What the others need.
        expected: String,
    },
    /// The optimizer serves another model already.
    #[error(
        "this Blast, or one it was cloned from, is attached to a model already: build one for each model"
    )]
    AlreadyAttached,
    /// Two layers have one parameter, or copies of it with the same identity.
    #[error(
        "layers \"{first}\" and \"{second}\" have the same parameter id, as clones do: give each its own weights with `init`"
    )]
    SharedParameter {
        /// Path of the first.
        first: String,
        /// Path of the second.
        second: String,
    },
    /// Every layer is exempt.
    #[error("every layer is kept dense: there is nothing left to prune")]
    AllDense,
    /// A block size has no kernel.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// Replicas of a model keep different blocks.
    #[error(
        "replicas keep different blocks in layer \"{layer}\": start them from the same weights and optimizer state, \
         reduce gradients before the optimizer steps, and use devices of one kind, whose sums round alike"
    )]
    ReplicasDiffer {
        /// Path of the first layer that differs.
        layer: String,
    },
    /// The run ledger cannot be written.
    #[error("the run ledger {path} cannot be written: {cause}")]
    Ledger {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
}
