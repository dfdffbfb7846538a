//! What attention is made of besides products with weights.

use std::ops::Range;

use burn::backend::Dispatch;
use burn::tensor::{DType, Tensor};

use super::{check_dims, check_dtypes, plain};
use crate::attention::{Reach, Seen};
use crate::ops::BlastOps;

/// `softmax(x + mask)` along rows; the rows of the mask repeat. The mask gets no gradient. In f32, for attention scores.
///
/// # Shapes
/// - `x`, output: `[rows, width]`, `mask`: `[period, width]`, where `period` divides `rows`
///
/// # Panics
/// If a shape does not fit, or a data type is not f32.
pub fn masked_softmax(x: Tensor<2>, mask: Tensor<2>) -> Tensor<2> {
    let ([rows, width], [period, mask_width]) = (x.dims(), mask.dims());
    assert!(width == mask_width, "a mask of {mask_width} does not fit rows of {width}");
    let repeats = if period == 0 { rows == 0 } else { rows.is_multiple_of(period) };
    assert!(repeats, "a mask of {period} rows does not fit {rows} rows");
    for dtype in [x.dtype(), mask.dtype()] {
        assert!(dtype == DType::F32, "a masked softmax is of F32, not {dtype:?}: cast it");
    }
    let (x, mask) = (plain(x).into_dispatch(), plain(mask).into_dispatch());
    Tensor::from_dispatch(Dispatch::masked_softmax(x, mask))
}

/// Attention of the last `time` of `span` positions to themselves and those before them:
/// `softmax(scale · query · keysᵀ) · values`. As many queries share each head of keys and values; a query sees the last `window`
/// positions, itself among them, or all. In f32. Its backward pass computes the shares again, so that none are kept.
///
/// On Flex, scores exist only in blocks that are seen, for one head at a time in each thread; elsewhere Burn's operations do it.
///
/// # Shapes
/// - `query`, output: `[batch, heads, time, head]`
/// - `keys`, `values`: `[batch, kv_heads, span, head]`
///
/// # Panics
/// If a shape does not fit, a data type is not f32, or the window is empty.
pub fn causal_attention(
    query: Tensor<4>,
    keys: Tensor<4>,
    values: Tensor<4>,
    window: Option<usize>,
    scale: f64,
) -> Tensor<4> {
    let ([batch, heads, time, head], [_, kv_heads, span, _]) = (query.dims(), keys.dims());
    check_dims("the keys", keys.dims(), [batch, kv_heads, span, head]);
    check_dims("the values", values.dims(), keys.dims());
    let shared = kv_heads > 0 && heads.is_multiple_of(kv_heads);
    assert!(shared, "{heads} heads cannot share {kv_heads} evenly");
    assert!(time <= span, "{time} queries cannot be the last of {span} positions");
    assert!(window != Some(0), "a window must have a position");
    for dtype in [query.dtype(), keys.dtype(), values.dtype()] {
        assert!(dtype == DType::F32, "causal attention is of F32, not {dtype:?}: cast it");
    }
    if time == 0 {
        return query;
    }
    let [query, keys, values] = [query, keys, values].map(|tensor| plain(tensor).into_dispatch());
    let reach = Reach { window, scale };
    Tensor::from_dispatch(Dispatch::causal_attention(query, keys, values, reach))
}

/// Attention of one position of each text to the positions it sees of a cache: `softmax(scale · query · keysᵀ) · values`.
/// As many queries share each head of the cache. On Flex the cache is read where it is; elsewhere Burn's
/// operations do it.
///
/// # Shapes
/// - `query`, output: `[batch, heads, head]`
/// - `keys`, `values`: `[batch, kv_heads, capacity, head]`
///
/// # Panics
/// If a shape or data type does not fit, or `positions` is empty or not inside the cache.
pub fn cached_attention(
    query: Tensor<3>,
    keys: Tensor<4>,
    values: Tensor<4>,
    positions: Range<usize>,
    scale: f64,
) -> Tensor<3> {
    let ([batch, heads, head], [_, kv_heads, capacity, _]) = (query.dims(), keys.dims());
    let cached = [batch, kv_heads, capacity, head];
    check_dims("the keys", keys.dims(), cached);
    check_dims("the values", values.dims(), cached);
    check_dtypes(query.dtype(), keys.dtype());
    check_dtypes(query.dtype(), values.dtype());
    let shared = kv_heads > 0 && heads.is_multiple_of(kv_heads);
    assert!(shared, "{heads} heads cannot share {kv_heads} evenly");
    let inside = !positions.is_empty() && positions.end <= capacity;
    assert!(inside, "positions {positions:?} are not in a cache of {capacity}");
    let (query, [keys, values]) = (plain(query).into_dispatch(), [keys, values].map(plain));
    let [keys, values] = [keys, values].map(Tensor::into_dispatch);
    let seen = Seen { positions, scale };
    Tensor::from_dispatch(Dispatch::cached_attention(query, keys, values, seen))
}
