//! Which blocks of a weight are kept.
//!
//! A weight `w` of `[d_input, d_output]` is divided into `b x b` blocks; the last block row and column
//! may be ragged. Kept blocks are stored column by column, and inside a column by row:
//!
//! ```text
//!            block column        values [nnz, b, b], in this order
//!              0   1   2         ┌───┬───┬───┬───┐
//!            ┌───┬───┬───┐       │ A │ B │ C │ D │
//! block   0  │ A │   │ C │       └───┴───┴───┴───┘
//! row     1  │   │   │   │  slot   0   1   2   3
//!         2  │ B │   │ D │
//!            └───┴───┴───┘       column view            row view
//!                                col_ptr [0, 2, 2, 4]   row_ptr [0, 2, 2, 4]
//!                                row_idx [0, 2, 0, 2]   col_idx [0, 2, 0, 2]
//!                                                       slot    [0, 2, 1, 3]
//! ```
//!
//! The column view drives the forward product, the row view the input gradient; both read the same
//! values. Inside a block values are row-major, contraction (`d_input`) rows first. Parts of a ragged
//! block outside the weight are zero and stay zero.

mod block;
mod block_pattern;
mod generate;
mod mask;
mod work_order;

pub use block::{BlockSize, MatrixShape};
#[cfg(feature = "cube")]
pub(crate) use block_pattern::WeakPattern;
pub use block_pattern::{BlockPattern, PatternId, fnv1a};
pub use mask::BlockMask;
pub use work_order::WorkOrder;
pub(crate) use work_order::equal_work;
