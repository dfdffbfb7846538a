//! The operations a backend supplies.
// The selector list names the deprecated NdArray backend.
#![cfg_attr(feature = "ndarray", allow(deprecated))]

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};
use burn::tensor::Shape;
use burn_blast_kernels::BlockPattern;

/// Multiplication by a block-sparse weight, its gradients, and what pruning reads.
///
/// `y[m, n] = Σ_k x[m, k] · w[k, n]`, where `w` of `[d_input, d_output]` is given as packed `values`
/// of `[nnz, b, b]` and a [`BlockPattern`]. All tensors of one call share a data type; sums are kept in
/// `f32`. Implementations may assume checked shapes: the callers in
/// [`functions`](crate::functions) check them.
#[backend_extension(
    Cube: cfg(feature = "cube"),
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Fusion: cfg(feature = "fusion"),
    Autodiff,
)]
pub trait BlastOps: Backend {
    /// `y = x · w`. Shapes: `x [m, d_input]`, result `[m, d_output]`.
    #[fusion(dtype = x, shape = rows_by(x, pattern.shape().cols()))]
    fn spmm(
        x: FloatTensor<Self>,
        values: FloatTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self>;

    /// `y = x · w + bias` in one pass. Shapes: `x [m, d_input]`, `bias [d_output]`, result
    /// `[m, d_output]`.
    #[fusion(dtype = x, shape = rows_by(x, pattern.shape().cols()))]
    fn spmm_bias(
        x: FloatTensor<Self>,
        values: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self>;

    /// [`spmm`](Self::spmm) whose backward also fills the gradient of `probe` with the norm of every
    /// block of the weight gradient, kept or not. Shape of `probe`: `[block_rows, block_cols]`.
    #[fusion(default)]
    fn spmm_probed(
        x: FloatTensor<Self>,
        values: FloatTensor<Self>,
        probe: FloatTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self> {
        drop(probe);
        Self::spmm(x, values, pattern)
    }

    /// `dx = dy · wᵀ`, the input gradient. Shapes: `dy [m, d_output]`, result `[m, d_input]`.
    #[fusion(dtype = dy, shape = rows_by(dy, pattern.shape().rows()))]
    fn spmm_t(
        dy: FloatTensor<Self>,
        values: FloatTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self>;

    /// `xᵀ · dy` at the kept blocks, the weight gradient. Shapes: `x [m, d_input]`,
    /// `dy [m, d_output]`, result `[nnz, b, b]`.
    #[fusion(dtype = x, shape = packed(pattern))]
    fn sddmm(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self>;

    /// Frobenius norm of each block. Shapes: `values [nnz, b, b]`, result `[nnz]`.
    #[fusion(dtype = values, shape = Shape::new([pattern.nnz()]))]
    fn block_norms(values: FloatTensor<Self>, pattern: BlockPattern) -> FloatTensor<Self>;

    /// Frobenius norm of every block of `xᵀ · dy`, kept or not, without storing that product.
    /// Result `[block_rows, block_cols]`.
    #[fusion(dtype = x, shape = Shape::new([pattern.block_rows(), pattern.block_cols()]))]
    fn grad_block_norms(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self>;

    /// Gathers the kept blocks of a dense weight. Shapes: `dense [d_input, d_output]`, result
    /// `[nnz, b, b]`, zero outside the weight.
    #[fusion(dtype = dense, shape = packed(pattern))]
    fn pack(dense: FloatTensor<Self>, pattern: BlockPattern) -> FloatTensor<Self>;

    /// Scatters packed values into a dense weight, zero elsewhere. Shapes: `values [nnz, b, b]`,
    /// result `[d_input, d_output]`.
    #[fusion(dtype = values, shape = Shape::new([pattern.shape().rows(), pattern.shape().cols()]))]
    fn unpack(values: FloatTensor<Self>, pattern: BlockPattern) -> FloatTensor<Self>;
}

/// Shape of packed values.
pub(crate) fn packed(pattern: &BlockPattern) -> Shape {
    let b = pattern.block().get();
    Shape::new([pattern.nnz(), b, b])
}

#[cfg(feature = "fusion")]
fn rows_by(input: &Shape, cols: usize) -> Shape {
    Shape::new([input[0], cols])
}
