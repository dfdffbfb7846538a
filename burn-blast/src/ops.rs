//! The operations a backend supplies.
// The selector list names the deprecated NdArray backend.
#![cfg_attr(feature = "ndarray", allow(deprecated))]

use burn::backend::tensor::{FloatTensor, QuantizedTensor};
use burn::backend::{Backend, TensorMetadata, backend_extension};
use burn::tensor::Shape;
use burn_blast_kernels::BlockPattern;

use crate::attention::{Reach, Seen, attend, attend_causally, attend_causally_backward};
use crate::feed_forward::{GatedPatterns, MlpActivation, MlpPatterns, activate, activate_backward};

/// Multiplication by a block-sparse weight, its gradients, and the norms that pruning ranks blocks by.
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

    /// [`spmm`](Self::spmm) whose backward pass also gives `probe` a gradient: the norm of every block of the weight
    /// gradient, kept or absent. Shape of `probe`: `[block_rows, block_cols]`.
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

    /// [`spmm`](Self::spmm) with values quantised by [`quantize`](crate::module::quantize()). Only `x` gets a gradient.
    #[fusion(dtype = x, shape = rows_by(x, pattern.shape().cols()))]
    fn spmm_quantized(
        x: FloatTensor<Self>,
        values: QuantizedTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self> {
        let values = Self::dequantize(values, x.dtype().into());
        Self::spmm(x, values, pattern)
    }

    /// `dx = dy · wᵀ`, the input gradient. Shapes: `dy [m, d_output]`, result `[m, d_input]`.
    #[fusion(dtype = dy, shape = rows_by(dy, pattern.shape().rows()))]
    fn spmm_t(
        dy: FloatTensor<Self>,
        values: FloatTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self>;

    /// [`spmm_t`](Self::spmm_t) with values quantised by [`quantize`](crate::module::quantize()).
    #[fusion(dtype = dy, shape = rows_by(dy, pattern.shape().rows()))]
    fn spmm_t_quantized(
        dy: FloatTensor<Self>,
        values: QuantizedTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self> {
        let values = Self::dequantize(values, dy.dtype().into());
        Self::spmm_t(dy, values, pattern)
    }

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

    /// Frobenius norm of every block of `xᵀ · dy`, kept or absent, without storing that product.
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

    /// `softmax(x + mask)` along rows, the mask's rows repeated. Shapes: `x [rows, width]`, `mask [period, width]`. `mask`
    /// gets no gradient. Attention is made of it: Burn's autodiff takes many passes for a softmax.
    #[fusion(dtype = x, shape = x.clone())]
    fn masked_softmax(x: FloatTensor<Self>, mask: FloatTensor<Self>) -> FloatTensor<Self> {
        let (rows, masked) = (x.shape(), mask.shape());
        let [period, width] = [masked[0], masked[1]];
        let x = Self::float_reshape(x, Shape::new([rows[0] / period.max(1), period, width]));
        let mask = Self::float_reshape(mask, Shape::new([1, period, width]));
        let shares = Self::softmax(Self::float_add(x, mask), 2);
        Self::float_reshape(shares, rows)
    }

    /// The gradient of `x` of [`masked_softmax`](Self::masked_softmax) from its result `y` and the gradient `dy` of that.
    #[fusion(dtype = y, shape = y.clone())]
    fn softmax_backward(y: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        let mean = Self::float_sum_dim(Self::float_mul(y.clone(), dy.clone()), 1);
        Self::float_mul(y, Self::float_sub(dy, mean))
    }

    /// `softmax(scale · query · keysᵀ) · values` over the positions that are seen of a cache. Shapes: `query` and result
    /// `[batch, heads, head]`, `keys` and `values` `[batch, kv_heads, capacity, head]`.
    #[fusion(dtype = query, shape = query.clone())]
    fn cached_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        seen: Seen,
    ) -> FloatTensor<Self> {
        attend::<Self>(query, keys, values, seen)
    }

    /// `softmax(scale · query · keysᵀ) · values`, where a query sees itself and the positions before it that it reaches. In f32. Shapes:
    /// `query` and result `[batch, heads, time, head]`, `keys` and `values` `[batch, kv_heads, span, head]`, of which the queries
    /// are the last `time`.
    #[fusion(dtype = query, shape = query.clone())]
    fn causal_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        reach: Reach,
    ) -> FloatTensor<Self> {
        attend_causally::<Self>(query, keys, values, reach)
    }

    /// Gradients of [`causal_attention`](Self::causal_attention) for `query`, `keys` and `values`, in this order, from the
    /// gradient `dy` of its result. The shares are computed again.
    #[fusion(meta = |query, keys, values, _dy, _reach| {
        (query.clone(), keys.clone(), values.clone())
    })]
    fn causal_attention_backward(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        reach: Reach,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        attend_causally_backward::<Self>(query, keys, values, dy, reach)
    }

    /// `activation(gate) · up`, element by element. Shapes: all the same.
    #[fusion(dtype = gate, shape = gate.clone())]
    fn gated_activation(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: MlpActivation,
    ) -> FloatTensor<Self> {
        Self::float_mul(activate::<Self>(gate, activation), up)
    }

    /// `down(activation(gate(x)) · up(x))`, without saving hidden features. Shapes: `x [m, d_model]`, result
    /// `[m, d_output]`, values `[nnz, b, b]` of their patterns.
    #[fusion(dtype = x, shape = rows_by(x, patterns.down.shape().cols()))]
    fn gated_mlp(
        x: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        patterns: GatedPatterns,
    ) -> FloatTensor<Self> {
        let gate = Self::spmm(x.clone(), gate, patterns.gate);
        let up = Self::spmm(x, up, patterns.up);
        let gate = activate::<Self>(gate, patterns.activation);
        Self::spmm(Self::float_mul(gate, up), down, patterns.down)
    }

    /// Gradients of [`gated_mlp`](Self::gated_mlp) for `x`, `gate`, `up` and `down`, in this order, from the
    /// gradient `dy` of its result. The hidden features are re-computed.
    #[fusion(meta = |x, gate, up, down, _dy, _patterns| {
        (x.clone(), gate.clone(), up.clone(), down.clone())
    })]
    fn gated_mlp_backward(
        x: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        patterns: GatedPatterns,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let g = Self::spmm(x.clone(), gate.clone(), patterns.gate.clone());
        let u = Self::spmm(x.clone(), up.clone(), patterns.up.clone());
        let active = activate::<Self>(g.clone(), patterns.activation);
        let h = Self::float_mul(active.clone(), u.clone());
        let dh = Self::spmm_t(dy.clone(), down, patterns.down.clone());
        let du = Self::float_mul(dh.clone(), active.clone());
        let dg = activate_backward::<Self>(g, active, Self::float_mul(dh, u), patterns.activation);
        let dx = Self::float_add(
            Self::spmm_t(dg.clone(), gate, patterns.gate.clone()),
            Self::spmm_t(du.clone(), up, patterns.up.clone()),
        );
        let dgate = Self::sddmm(x.clone(), dg, patterns.gate);
        let dup = Self::sddmm(x, du, patterns.up);
        (dx, dgate, dup, Self::sddmm(h, dy, patterns.down))
    }

    /// `down(activation(up(x) + up_bias)) + down_bias`, without saving hidden features. Shapes: `x [m, d_model]`,
    /// `up_bias [d_ff]`, `down_bias [d_output]`, result `[m, d_output]`, values `[nnz, b, b]` of their patterns.
    #[fusion(dtype = x, shape = rows_by(x, patterns.down.shape().cols()))]
    fn mlp(
        x: FloatTensor<Self>,
        up: FloatTensor<Self>,
        up_bias: FloatTensor<Self>,
        down: FloatTensor<Self>,
        down_bias: FloatTensor<Self>,
        patterns: MlpPatterns,
    ) -> FloatTensor<Self> {
        let h = Self::spmm_bias(x, up, up_bias, patterns.up);
        let h = activate::<Self>(h, patterns.activation);
        Self::spmm_bias(h, down, down_bias, patterns.down)
    }

    /// Gradients of [`mlp`](Self::mlp) for `x`, `up`, `up_bias` and `down`, in this order, from the gradient `dy` of
    /// its result. The gradient of `down_bias` is `Σ_m dy`. The hidden features are re-computed.
    #[fusion(meta = |x, up, up_bias, down, _dy, _patterns| {
        (x.clone(), up.clone(), up_bias.clone(), down.clone())
    })]
    fn mlp_backward(
        x: FloatTensor<Self>,
        up: FloatTensor<Self>,
        up_bias: FloatTensor<Self>,
        down: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        patterns: MlpPatterns,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let features = up_bias.shape();
        let z = Self::spmm_bias(x.clone(), up.clone(), up_bias, patterns.up.clone());
        let h = activate::<Self>(z.clone(), patterns.activation);
        let dh = Self::spmm_t(dy.clone(), down, patterns.down.clone());
        let dz = activate_backward::<Self>(z, h.clone(), dh, patterns.activation);
        let dx = Self::spmm_t(dz.clone(), up, patterns.up.clone());
        let dbias = Self::float_reshape(Self::float_sum_dim(dz.clone(), 0), features);
        let dup = Self::sddmm(x, dz, patterns.up);
        (dx, dup, dbias, Self::sddmm(h, dy, patterns.down))
    }
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
