//! `y = f(x · w + bias) + residual` and `dx = dy · wᵀ + residual`.
//!
//! A cube owns a tile of the output and walks the kept blocks of one *block column of the output*: a block column of
//! the weight, or a block row where the weight is transposed.

use cubecl::prelude::*;

use super::context::Context;
use super::epilogue::Epilogue;
use super::index::{IndexBuffer, PatternIndex};
use crate::BlockPattern;

pub(super) mod launch;
pub(super) mod unit;

/// Tensor cores.
pub(super) mod mma {
    pub(crate) mod base;
    pub(crate) mod kernel;
    pub(crate) mod split_k;
}

/// Cooperative matrices.
pub(super) mod cmma {
    pub(crate) mod base;
    pub(crate) mod kernel;
}

/// The tensors of a product of `m` rows.
pub(super) struct Tensors {
    pub transposed: bool,
    pub x: BufferArg,
    pub values: BufferArg,
    pub y: BufferArg,
    pub epilogue: Epilogue,
    pub m: usize,
}

/// The view of the pattern that a product walks, and its sizes.
pub(super) struct View<'a> {
    pub order: &'a IndexBuffer,
    pub ptr: &'a IndexBuffer,
    pub idx: &'a IndexBuffer,
    /// Value slots of the blocks in `idx`; without it they are in slot order.
    pub slot: Option<&'a IndexBuffer>,
    /// Block columns of the output.
    pub block_cols: usize,
    pub contraction: usize,
    pub output: usize,
}

impl<'a> View<'a> {
    /// The view for a product with the weight, or with its transpose.
    pub(super) fn new(ctx: &Context, index: &'a PatternIndex, transposed: bool) -> Self {
        let [contraction, output] = sides(ctx.pattern, transposed);
        if transposed {
            return Self {
                order: &index.rows_by_length,
                ptr: &index.row_ptr,
                idx: &index.col_idx,
                slot: Some(&index.slot),
                block_cols: ctx.pattern.block_rows(),
                contraction,
                output,
            };
        }
        Self {
            order: &index.cols_by_length,
            ptr: &index.col_ptr,
            idx: &index.row_idx,
            slot: None,
            block_cols: ctx.pattern.block_cols(),
            contraction,
            output,
        }
    }
}

/// Columns of the input and of the output of a product.
pub(super) fn sides(pattern: &BlockPattern, transposed: bool) -> [usize; 2] {
    let (rows, cols) = (pattern.shape().rows(), pattern.shape().cols());
    if transposed { [cols, rows] } else { [rows, cols] }
}
