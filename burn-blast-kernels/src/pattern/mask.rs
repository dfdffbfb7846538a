//! The editable form of a pattern.

use fixedbitset::FixedBitSet;

use super::{BlockPattern, BlockSize, MatrixShape};

/// One bit per block of a weight: set means kept.
///
/// Blocks are numbered row by row, `row * block_cols + col`; this number is the tie-break wherever
/// blocks are ranked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockMask {
    shape: MatrixShape,
    block: BlockSize,
    bits: FixedBitSet,
}

impl BlockMask {
    /// A mask that keeps nothing.
    pub fn empty(shape: MatrixShape, block: BlockSize) -> Self {
        let blocks = shape.block_rows(block) * shape.block_cols(block);
        Self { shape, block, bits: FixedBitSet::with_capacity(blocks) }
    }

    /// A mask that keeps every block.
    pub fn full(shape: MatrixShape, block: BlockSize) -> Self {
        let mut mask = Self::empty(shape, block);
        mask.bits.insert_range(..);
        mask
    }

    /// A mask that keeps the listed block numbers.
    ///
    /// # Panics
    /// If a number is not below [`len`](Self::len).
    pub fn from_indices(
        shape: MatrixShape,
        block: BlockSize,
        kept: impl IntoIterator<Item = usize>,
    ) -> Self {
        let mut mask = Self::empty(shape, block);
        kept.into_iter().for_each(|index| mask.bits.insert(index));
        mask
    }

    /// Size of the weight.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Size of a block.
    pub fn block(&self) -> BlockSize {
        self.block
    }

    /// Number of blocks in the grid, kept or not.
    pub fn len(&self) -> usize {
        self.bits.len()
    }

    /// Whether the grid has no blocks. Always false, because a weight has at least one.
    pub fn is_empty(&self) -> bool {
        self.bits.is_empty()
    }

    /// Number of kept blocks.
    pub fn count(&self) -> usize {
        self.bits.count_ones(..)
    }

    /// Whether a block is kept.
    pub fn get(&self, row: usize, col: usize) -> bool {
        self.bits.contains(self.index(row, col))
    }

    /// Whether the block with this number is kept.
    pub fn contains(&self, index: usize) -> bool {
        self.bits.contains(index)
    }

    /// Keeps or drops a block.
    ///
    /// # Panics
    /// If the block is outside the grid.
    pub fn set(&mut self, row: usize, col: usize, keep: bool) {
        let index = self.index(row, col);
        self.bits.set(index, keep);
    }

    /// Numbers of the kept blocks, in increasing order.
    pub fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        self.bits.ones()
    }

    /// Blocks kept by either mask.
    pub fn union(&self, other: &Self) -> Self {
        self.check_same_grid(other);
        Self { bits: &self.bits | &other.bits, ..self.clone() }
    }

    /// Blocks kept by both masks.
    pub fn intersection(&self, other: &Self) -> Self {
        self.check_same_grid(other);
        Self { bits: &self.bits & &other.bits, ..self.clone() }
    }

    /// Blocks kept here and not in `other`.
    pub fn difference(&self, other: &Self) -> Self {
        self.check_same_grid(other);
        let mut bits = self.bits.clone();
        bits.difference_with(&other.bits);
        Self { bits, ..self.clone() }
    }

    fn index(&self, row: usize, col: usize) -> usize {
        let cols = self.shape.block_cols(self.block);
        assert!(
            row < self.shape.block_rows(self.block) && col < cols,
            "block ({row}, {col}) is outside the grid"
        );
        row * cols + col
    }

    fn check_same_grid(&self, other: &Self) {
        assert!(
            self.shape == other.shape && self.block == other.block,
            "masks of different weights cannot be combined"
        );
    }
}

impl From<&BlockPattern> for BlockMask {
    fn from(pattern: &BlockPattern) -> Self {
        let mut mask = Self::empty(pattern.shape(), pattern.block());
        for (row, col) in pattern.blocks() {
            mask.set(row, col, true);
        }
        mask
    }
}
