//! Causal attention over grouped heads, and its cache of keys and values.

use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_blast::functions::{cached_attention, causal_attention, is_host, masked_softmax};

use crate::rope::Rotation;

/// Added to the score of a position that must not be seen: vanishes in the softmax, and is finite.
const HIDDEN: f32 = -1e9;

/// Fewest new positions whose attention to a cache is by blocks: a block has 32 rows, whatever is in them. Guess.
const MIN_BLOCKS: usize = 32;

/// Positions a cache grows by, at least.
const MIN_GROWTH: usize = 64;

/// Keys and values of the positions seen so far, for every layer of one batch of texts.
///
/// Burn's own cache joins tensors at every step, which copies all of them; this one doubles a buffer.
///
/// Made by [`Model::cache`](crate::Model::cache). All texts of a batch have the same length.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Keys and values, each `[batch, kv_heads, capacity, head]` and filled up to `len`.
    layers: Vec<Option<(Tensor<4>, Tensor<4>)>>,
    len: usize,
}

impl Cache {
    pub(crate) fn new(layers: usize) -> Self {
        Self { layers: vec![None; layers], len: 0 }
    }

    /// Positions seen.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was seen yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds keys and values of new positions to a layer. Returns the buffers that hold all positions; behind them is room.
    ///
    /// # Shapes
    /// - `keys`, `values`: `[batch, kv_heads, time, head]`
    /// - output: `[batch, kv_heads, capacity, head]`
    fn extend(
        &mut self,
        layer: usize,
        keys: Tensor<4>,
        values: Tensor<4>,
    ) -> (Tensor<4>, Tensor<4>) {
        let [batch, heads, time, head] = keys.dims();
        let (start, end) = (self.len, self.len + time);
        // Taken out: the assignment copies a buffer that has another owner.
        let (old_keys, old_values) = self.layers[layer].take().unzip();
        let store = |old, new: Tensor<4>| {
            let place = [0..batch, 0..heads, start..end, 0..head];
            with_room(old, &new, end).slice_assign(place, new)
        };
        let all = (store(old_keys, keys), store(old_values, values));
        self.layers[layer] = Some(all.clone());
        all
    }
}

/// The buffer, or a longer copy if it has no room for `end` positions.
fn with_room(old: Option<Tensor<4>>, new: &Tensor<4>, end: usize) -> Tensor<4> {
    let capacity = old.as_ref().map_or(0, |old| old.dims()[2]);
    let [batch, heads, _, head] = new.dims();
    // At least doubled, so that each position is copied once on average.
    let growth = (end.saturating_sub(capacity)).max(capacity).max(MIN_GROWTH);
    let zeros = || Tensor::zeros([batch, heads, growth, head], (&new.device(), new.dtype()));
    match old {
        Some(old) if end <= capacity => old,
        Some(old) => Tensor::cat(vec![old, zeros()], 2),
        None => zeros(),
    }
}

/// The features of each head.
///
/// # Shapes
/// - `x`: `[batch, time, heads * head]`
/// - output: `[batch, heads, time, head]`
pub(crate) fn split_heads(x: Tensor<3>, head: usize) -> Tensor<4> {
    let [batch, time, width] = x.dims();
    x.reshape([batch, time, width / head, head]).swap_dims(1, 2)
}

/// Called with the name of a linear layer and its input; returns the input that the layer takes.
pub(crate) type Hook<'a> = dyn FnMut(&str, Tensor<3>) -> Tensor<3> + 'a;

/// How a layer attends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// Factor of the scores.
    pub(crate) scale: f64,
    /// Positions that a query sees, itself and those before it; all without it.
    pub(crate) window: Option<usize>,
}

/// What all layers share during a forward pass.
pub(crate) struct Pass<'a> {
    cache: Option<&'a mut Cache>,
    /// Position of the first token.
    pub(crate) start: usize,
    time: usize,
    /// For each window that a layer had so far, `[1, 1, time, start + time]`.
    masks: Vec<(Option<usize>, Tensor<4>)>,
    /// Angles of these positions, once a layer has asked for them.
    rotations: [Option<Rotation>; 2],
    /// Output of every layer so far, if asked for.
    pub(crate) features: Option<&'a mut Vec<Tensor<3>>>,
    /// Input and output of every MLP so far, if asked for.
    pub(crate) mlps: Option<&'a mut Vec<[Tensor<3>; 2]>>,
    /// Called with the input of every linear layer of an MLP.
    pub(crate) hook: Option<&'a mut Hook<'a>>,
}

impl<'a> Pass<'a> {
    pub(crate) fn new(cache: Option<&'a mut Cache>, time: usize) -> Self {
        let start = cache.as_ref().map_or(0, |cache| cache.len);
        let (masks, rotations) = (Vec::new(), [None, None]);
        Self { cache, start, time, masks, rotations, features: None, mlps: None, hook: None }
    }

    /// The rotation of this number, which `compute` makes from the position of the first token at the first call.
    pub(crate) fn rotation(
        &mut self,
        number: usize,
        compute: impl FnOnce(usize) -> Rotation,
    ) -> Rotation {
        let start = self.start;
        self.rotations[number].get_or_insert_with(|| compute(start)).clone()
    }

    /// What is added to scores, so that no query sees positions after it or before its window.
    fn mask(&mut self, window: Option<usize>, device: &Device) -> Tensor<4> {
        if let Some((_, mask)) = self.masks.iter().find(|(other, _)| *other == window) {
            return mask.clone();
        }
        let (start, time, span) = (self.start, self.time, self.start + self.time);
        let hidden = |index: usize| {
            let (query, key) = (start + index / span, index % span);
            let is_hidden = key > query || window.is_some_and(|window| key + window <= query);
            if is_hidden { HIDDEN } else { 0.0 }
        };
        let mask: Vec<f32> = (0..time * span).map(hidden).collect();
        let mask =
            Tensor::from_data(TensorData::new(mask, [1, 1, time, span]), (device, DType::F32));
        self.masks.push((window, mask.clone()));
        mask
    }

    /// Attention of one layer's new positions to all positions so far, or those in its window.
    ///
    /// # Shapes
    /// - `query`: `[batch, heads, time, head]`
    /// - `keys`, `values`: `[batch, kv_heads, time, head]`
    /// - output: `[batch, time, heads * head]`
    pub(crate) fn attend(
        &mut self,
        layer: usize,
        query: Tensor<4>,
        keys: Tensor<4>,
        values: Tensor<4>,
        reach: Reach,
    ) -> Tensor<3> {
        let (keys, values) = match &mut self.cache {
            Some(cache) => cache.extend(layer, keys, values),
            None => (keys, values),
        };
        let [batch, heads, time, head] = query.dims();
        let (kv_heads, span) = (keys.dims()[1], self.start + time);
        let window = reach.window.filter(|window| *window < span);
        if time == 1 {
            // A single query sees a part, and needs no mask.
            let seen = window.map_or(0, |window| span - window)..span;
            let query = query.reshape([batch, heads, head]);
            let mixed = cached_attention(query, keys, values, seen, reach.scale);
            return mixed.reshape([batch, 1, heads * head]);
        }
        let dtype = query.dtype();
        if dtype == DType::F32 && is_host(&query.device()) && (time >= MIN_BLOCKS || time == span) {
            // Nothing before the window of the first query.
            let first = window.map_or(0, |window| span.saturating_sub(window + time - 1));
            let [keys, values] = [keys, values].map(|buffer| buffer.slice_dim(2, first..span));
            let mixed = causal_attention(query, keys, values, window, reach.scale);
            return mixed.swap_dims(1, 2).reshape([batch, time, heads * head]);
        }
        let [keys, values] = [keys, values].map(|buffer| buffer.slice_dim(2, 0..span));
        let mask = self.mask(window, &query.device());
        // The queries that share a key are rows of one product, so no key is copied.
        let grouped = [batch, kv_heads, heads / kv_heads * time, head];
        let query = query.mul_scalar(reach.scale).reshape(grouped);
        let scores = query.matmul(keys.swap_dims(2, 3)).reshape([batch, heads, time, span]);
        // In single precision whatever the model's, as transformers does.
        let scores = scores.cast(DType::F32);
        let rows = scores.reshape([batch * heads * time, span]);
        let shares = masked_softmax(rows, mask.reshape([time, span])).cast(dtype);
        let shares = shares.reshape([batch, kv_heads, heads / kv_heads * time, span]);
        let mixed = shares.matmul(values).reshape([batch, heads, time, head]);
        mixed.swap_dims(1, 2).reshape([batch, time, heads * head])
    }

    /// Keeps the output of a layer, if asked for.
    pub(crate) fn record_output(&mut self, output: &Tensor<3>) {
        if let Some(features) = &mut self.features {
            features.push(output.clone());
        }
    }

    /// Keeps input and output of an MLP, if asked for.
    pub(crate) fn record_mlp(&mut self, input: Option<Tensor<3>>, output: &Tensor<3>) {
        if let (Some(mlps), Some(input)) = (&mut self.mlps, input) {
            mlps.push([input, output.clone()]);
        }
    }

    /// The input of a linear layer, from the hook if there is one.
    pub(crate) fn observe(&mut self, name: impl FnOnce() -> String, input: Tensor<3>) -> Tensor<3> {
        match &mut self.hook {
            Some(hook) => hook(&name(), input),
            None => input,
        }
    }

    /// Adds the positions to the cache once they passed every layer.
    pub(crate) fn finish(self) {
        if let Some(cache) = self.cache {
            cache.len += self.time;
        }
    }
}
