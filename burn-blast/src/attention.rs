//! Attention by the operations of a backend.

use std::ops::Range;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, Shape, Slice, TensorData};

/// What a query sees of a cache.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Positions of the cache.
    pub positions: Range<usize>,
    /// Factor of the scores.
    pub scale: f64,
}

/// Which of the positions before it a query sees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reach {
    /// Positions, itself and those before it; all without it.
    pub window: Option<usize>,
    /// Factor of the scores.
    pub scale: f64,
}

/// Added to the score of a position that must not be seen: vanishes in the softmax, and is finite.
const HIDDEN: f32 = -1e9;

/// Shares of causal attention: `softmax(scale · query · keysᵀ + mask)`, with the queries of a key as rows of one product.
///
/// # Shapes
/// - `query`: `[batch, heads, time, head]`, `keys`: `[batch, kv_heads, span, head]`
/// - output: `[batch, kv_heads, heads / kv_heads * time, span]`
fn causal_shares<B: Backend>(
    query: FloatTensor<B>,
    keys: FloatTensor<B>,
    reach: Reach,
) -> FloatTensor<B> {
    let (device, [batch, heads, time, _]) = (query.device(), query.shape().dims());
    let [_, kv_heads, span, _] = keys.shape().dims();
    let hidden = |at: usize| {
        let (query, key) = (span - time + at / span, at % span);
        let is_hidden = key > query || reach.window.is_some_and(|window| key + window <= query);
        if is_hidden { HIDDEN } else { 0.0 }
    };
    let mask: Vec<f32> = (0..time * span).map(hidden).collect();
    let mask = B::float_from_data(TensorData::new(mask, [1, 1, time, span]), &device);
    let query = B::float_mul_scalar(grouped::<B>(query, kv_heads), reach.scale.into());
    let scores = B::float_matmul(query, B::float_swap_dims(keys, 2, 3));
    let scores = B::float_reshape(scores, Shape::new([batch, heads, time, span]));
    let shares = B::softmax(B::float_add(scores, mask), 3);
    B::float_reshape(shares, Shape::new([batch, kv_heads, heads / kv_heads * time, span]))
}

/// `[batch, heads, time, head]` as `[batch, kv_heads, heads / kv_heads * time, head]`.
fn grouped<B: Backend>(query: FloatTensor<B>, kv_heads: usize) -> FloatTensor<B> {
    let [batch, heads, time, head] = query.shape().dims();
    B::float_reshape(query, Shape::new([batch, kv_heads, heads / kv_heads * time, head]))
}

/// Causal attention, by the operations of a backend.
pub(crate) fn attend_causally<B: Backend>(
    query: FloatTensor<B>,
    keys: FloatTensor<B>,
    values: FloatTensor<B>,
    reach: Reach,
) -> FloatTensor<B> {
    let shape = query.shape();
    let shares = causal_shares::<B>(query, keys, reach);
    B::float_reshape(B::float_matmul(shares, values), shape)
}

/// Gradients of query, keys and values of causal attention, by the operations of a backend.
pub(crate) fn attend_causally_backward<B: Backend>(
    query: FloatTensor<B>,
    keys: FloatTensor<B>,
    values: FloatTensor<B>,
    dy: FloatTensor<B>,
    reach: Reach,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (shape, kv_heads) = (query.shape(), keys.shape()[1]);
    let shares = causal_shares::<B>(query.clone(), keys.clone(), reach);
    let (query, dy) = (grouped::<B>(query, kv_heads), grouped::<B>(dy, kv_heads));
    let dshares = B::float_matmul(dy.clone(), B::float_swap_dims(values, 2, 3));
    let mean = B::float_sum_dim(B::float_mul(shares.clone(), dshares.clone()), 3);
    let dscores = B::float_mul(shares.clone(), B::float_sub(dshares, mean));
    let dscores = B::float_mul_scalar(dscores, reach.scale.into());
    let dquery = B::float_reshape(B::float_matmul(dscores.clone(), keys), shape);
    let dkeys = B::float_matmul(B::float_swap_dims(dscores, 2, 3), query);
    (dquery, dkeys, B::float_matmul(B::float_swap_dims(shares, 2, 3), dy))
}

/// `softmax(scale · query · keysᵀ) · values` over the seen positions, by the operations of a backend.
///
/// # Shapes
/// - `query`, output: `[batch, heads, head]`, `keys` and `values`: `[batch, kv_heads, capacity, head]`
pub(crate) fn attend<B: Backend>(
    query: FloatTensor<B>,
    keys: FloatTensor<B>,
    values: FloatTensor<B>,
    seen: Seen,
) -> FloatTensor<B> {
    let (shape, dtype, cached) = (query.shape(), query.dtype(), keys.shape());
    let [batch, heads, head] = [shape[0], shape[1], shape[2]];
    let kv_heads = cached[1];
    let part = |cache: FloatTensor<B>| {
        let ranges = [0..batch, 0..kv_heads, seen.positions.clone(), 0..head];
        B::float_slice(cache, &ranges.map(Slice::from))
    };
    let (keys, values) = (part(keys), part(values));
    // The queries that share a key are rows of one product, so no key is copied.
    let grouped = Shape::new([batch, kv_heads, heads / kv_heads, head]);
    let query = B::float_reshape(B::float_mul_scalar(query, seen.scale.into()), grouped);
    let scores = B::float_matmul(query, B::float_swap_dims(keys, 2, 3));
    // In single precision whatever the features', as transformers does.
    let shares = B::softmax(B::float_cast(scores, FloatDType::F32), 3);
    let shares = B::float_cast(shares, dtype.into());
    B::float_reshape(B::float_matmul(shares, values), shape)
}
