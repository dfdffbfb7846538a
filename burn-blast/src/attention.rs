//! Attention of one position of each text to a cache of keys and values.

use std::ops::Range;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, Shape, Slice};

/// What a query sees of a cache.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Positions of the cache.
    pub positions: Range<usize>,
    /// Factor of the scores.
    pub scale: f64,
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
