//! What can be wrong with a layer.

use burn_blast_kernels::PatternError;

/// Why a layer was not made or changed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// A size, the block size or a pattern is not valid.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The sparsity is not a share.
    #[error("sparsity {found} is not supported: use a share between 0 and 1")]
    Sparsity {
        /// The requested sparsity.
        found: f64,
    },
    /// There is nothing to quantise.
    #[error(
        "the model has no block-sparse weight: replace its linear layers by BlockSparseLinear, or use Burn's Quantizer for dense ones"
    )]
    NothingToQuantize,
    /// The device has no products with 4-bit integers.
    #[error(
        "4-bit integers are for Burn's CPU backend, Device::flex, alone: move the model there (to_device), or use 8 bits"
    )]
    NoInt4,
    /// The layer is packed in blocks of another size.
    #[error(
        "the layer has blocks of {found}, not {asked}: ask for {found}, or make it dense first (to_dense)"
    )]
    OtherBlocks {
        /// Block size of the layer.
        found: usize,
        /// The requested block size.
        asked: usize,
    },
    /// The pattern has no room for the change of an adapter.
    #[error(
        "the adapter changes all of {blocks} blocks, of which the weight keeps {kept}: merge it into a dense layer \
         (into_linear), or give up what is outside the pattern (merge_within)"
    )]
    OutsidePattern {
        /// Blocks of the grid.
        blocks: usize,
        /// Blocks kept.
        kept: usize,
    },
}
