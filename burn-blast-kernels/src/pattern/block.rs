//! Sizes of blocks and of the matrices they divide.

use crate::PatternError;

/// Side of a square block: 8, 16, 32, 64 or 128.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockSize(u8);

impl BlockSize {
    /// Every supported size.
    pub const ALL: [BlockSize; 5] =
        [BlockSize(8), BlockSize(16), BlockSize(32), BlockSize(64), BlockSize(128)];

    /// A block size, checked.
    ///
    /// # Errors
    /// If `size` is not 8, 16, 32, 64 or 128.
    pub fn new(size: usize) -> Result<Self, PatternError> {
        Self::ALL
            .into_iter()
            .find(|block| block.get() == size)
            .ok_or(PatternError::BlockSize { found: size })
    }

    /// The side, in elements.
    pub fn get(self) -> usize {
        self.0 as usize
    }

    /// Elements of one block.
    pub fn area(self) -> usize {
        self.get() * self.get()
    }
}

/// Size of a weight: `rows` is `d_input`, `cols` is `d_output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MatrixShape {
    rows: usize,
    cols: usize,
}

impl MatrixShape {
    /// Longest side. Indices of rows, columns and blocks then fit an `i32`.
    const MAX_SIDE: usize = i32::MAX as usize / 2;

    /// A matrix shape, checked.
    ///
    /// # Errors
    /// If a side is zero or does not fit a signed 32-bit index.
    pub fn new(rows: usize, cols: usize) -> Result<Self, PatternError> {
        let fits = |side| (1..=Self::MAX_SIDE).contains(&side);
        if !fits(rows) || !fits(cols) {
            return Err(PatternError::Shape { rows, cols, max: Self::MAX_SIDE });
        }
        Ok(Self { rows, cols })
    }

    /// `d_input`.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// `d_output`.
    pub fn cols(self) -> usize {
        self.cols
    }

    /// Elements of the dense matrix.
    pub fn area(self) -> usize {
        self.rows * self.cols
    }

    /// Block rows.
    pub fn block_rows(self, block: BlockSize) -> usize {
        self.rows.div_ceil(block.get())
    }

    /// Block columns.
    pub fn block_cols(self, block: BlockSize) -> usize {
        self.cols.div_ceil(block.get())
    }
}
