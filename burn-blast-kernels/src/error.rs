//! Errors of patterns.

use thiserror::Error;

/// Why a block pattern, block size or matrix shape was refused.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum PatternError {
    /// The block size has no kernel.
    #[error("block size {found} is not supported: use 8, 16, 32, 64 or 128")]
    BlockSize {
        /// The requested size.
        found: usize,
    },
    /// A matrix side is zero or too large to index.
    #[error(
        "a weight of {rows} x {cols} cannot be divided into blocks: both sides must be between 1 and {max}"
    )]
    Shape {
        /// Rows of the matrix (`d_input`).
        rows: usize,
        /// Columns of the matrix (`d_output`).
        cols: usize,
        /// Longest side allowed.
        max: usize,
    },
    /// The column pointers do not have one entry per block column plus one.
    #[error(
        "column pointers have {found} entries, but a weight of {cols} block columns needs {expected}: \
         the pattern was made for another weight shape or block size"
    )]
    ColPtrLen {
        /// Entries found.
        found: usize,
        /// Entries needed.
        expected: usize,
        /// Block columns of the weight.
        cols: usize,
    },
    /// The column pointers do not start at zero.
    #[error("column pointers start at {found} instead of 0: the file is damaged")]
    ColPtrStart {
        /// First entry found.
        found: u32,
    },
    /// The column pointers decrease from one column to the next.
    #[error(
        "column pointers decrease from {from} to {to} at block column {col}: the file is damaged"
    )]
    ColPtrDecreases {
        /// The block column.
        col: usize,
        /// Pointer at the start of the column.
        from: u32,
        /// Pointer at its end.
        to: u32,
    },
    /// The last column pointer is not the number of kept blocks.
    #[error(
        "column pointers end at {found}, but {expected} block rows are listed: the file is damaged or truncated"
    )]
    ColPtrEnd {
        /// Last pointer found.
        found: u32,
        /// Number of row indices.
        expected: usize,
    },
    /// A block is outside the matrix.
    #[error(
        "block row {row} in block column {col} is outside the grid of {rows} block rows: \
         the pattern was made for a larger weight or another block size"
    )]
    RowOutOfGrid {
        /// The row index found.
        row: u32,
        /// Its block column.
        col: usize,
        /// Block rows of the grid.
        rows: usize,
    },
    /// The rows of a column are not strictly increasing.
    #[error(
        "block row {row} in block column {col} comes after row {previous}: rows must increase strictly within a column"
    )]
    RowOrder {
        /// The row index found.
        row: u32,
        /// The one before it.
        previous: u32,
        /// Their block column.
        col: usize,
    },
}
