//! Models without the hidden features and heads that contribute nothing: the same scores from smaller matrices.

use std::fmt;

use burn_blast::module::{AnyLinear, live_features};

use crate::Model;

/// What [`Model::compact`] may remove from a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LayerSizes {
    /// Hidden features of the MLP.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
}

impl fmt::Display for LayerSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hidden, heads, kv_heads } = self;
        write!(f, "{hidden} hidden features and {heads} heads with {kv_heads} of keys")
    }
}

impl Model {
    /// The sizes of every layer.
    pub fn sizes(&self) -> Vec<LayerSizes> {
        self.family().sizes()
    }

    /// The model without dead hidden features and dead heads; scores are the same up to the order of sums.
    ///
    /// - A hidden feature is dead if nothing reads it, or if it is zero before the activation whatever the input. In an
    ///   MLP with block-sparse layers, whole blocks of features are removed.
    /// - A head is dead if the output projection reads nothing of it, or its values are zero whatever the input. Where
    ///   heads share keys, a group is removed with its keys if all its heads are dead. Groups must be equal, so every
    ///   other group loses the same number of heads, the smallest number of dead heads in any of them. Block-sparse
    ///   attention layers are left as they are unless whole blocks make up a head.
    ///
    /// One head and one block of hidden features are kept in each layer. Layers are decided one by one, so they may
    /// differ in size; a checkpoint records hidden features of each, but not heads: see [`ModelFolder::save`](crate::ModelFolder::save).
    /// Weights that shrink are new parameters.
    pub fn compact(mut self) -> Self {
        self.family_mut().compact();
        self
    }
}

/// Removes the dead hidden features of an MLP with these layers before and after its activation, which is zero at zero.
pub(crate) fn compact_mlp<const N: usize>(into: [&mut AnyLinear; N], out: &mut AnyLinear) {
    let Some(alive) = live_features(&into.each_ref().map(|layer| &**layer), out) else { return };
    let width = vec![true; out.shape()[1]];
    into.into_iter().for_each(|layer| *layer = layer.submatrix(&width, &alive));
    *out = out.submatrix(&alive, &width);
}

/// The features of queries, and of keys or values, that are kept of an attention with these layers before it and `out`
/// after it, if some heads can be removed. `values` says which of the value features can differ from zero.
pub(crate) fn live_heads(
    before: &[&AnyLinear],
    values: &[bool],
    out: &AnyLinear,
    head: usize,
) -> Option<[Vec<bool>; 2]> {
    let whole =
        |layer: &&AnyLinear| layer.block_size().is_none_or(|side| head.is_multiple_of(side));
    if !before.iter().chain([&out]).all(whole) {
        return None;
    }
    let heads = choose(values, &out.reads(), head);
    heads[0].contains(&false).then(|| heads.map(|heads| features(&heads, head)))
}

/// Heads of queries, and of keys and values, with anything in `values`, of `[kv_heads * head]`, and in `read`, of
/// `[heads * head]`; at least one.
fn choose(values: &[bool], read: &[bool], head: usize) -> [Vec<bool>; 2] {
    let by_head = |features: &[bool]| -> Vec<bool> {
        features.chunks(head).map(|head| head.contains(&true)).collect()
    };
    let (mut groups, mut queries) = (by_head(values), by_head(read));
    let share = queries.len() / groups.len();
    let mut most = 1;
    for (group, queries) in groups.iter_mut().zip(queries.chunks_mut(share)) {
        queries.iter_mut().for_each(|query| *query &= *group);
        *group = queries.contains(&true);
        most = most.max(queries.iter().filter(|query| **query).count());
    }
    if !groups.contains(&true) {
        groups[0] = true;
    }
    // Groups must be equal: groups with fewer live heads keep dead ones.
    for (_, queries) in groups.iter().zip(queries.chunks_mut(share)).filter(|(group, _)| **group) {
        let missing = most - queries.iter().filter(|query| **query).count();
        queries.iter_mut().filter(|query| !**query).take(missing).for_each(|dead| *dead = true);
    }
    [queries, groups]
}

fn features(heads: &[bool], head: usize) -> Vec<bool> {
    heads.iter().flat_map(|kept| std::iter::repeat_n(*kept, head)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: usize = 2;

    /// `x` for a head with anything in it.
    fn chosen(values: &str, read: &str) -> [String; 2] {
        let heads = |marks: &str| {
            features(&marks.chars().map(|mark| mark == 'x').collect::<Vec<_>>(), HEAD)
        };
        choose(&heads(values), &heads(read), HEAD)
            .map(|heads| heads.iter().map(|kept| if *kept { 'x' } else { '.' }).collect())
    }

    #[test]
    fn groups_are_removed_whole_and_are_equal() {
        let cases = [
            // values, read, queries kept, groups kept
            ("xx", "xxxxxx", "xxxxxx", "xx"),
            ("x.", "xxxxxx", "xxx...", "x."),
            ("xx", "...xx.", "...xx.", ".x"),
            // One dead head in each group is removed, whichever it is.
            ("xx", ".xxxx.", ".xxxx.", "xx"),
            // The group with two dead heads keeps one of them.
            ("xx", "..xxx.", "x.xxx.", "xx"),
            ("..", "xxxxxx", "x.....", "x."),
            ("xx", "......", "x.....", "x."),
            ("x.x", "x.x", "x.x", "x.x"),
        ];
        for (values, read, queries, groups) in cases {
            assert_eq!(chosen(values, read), [queries, groups], "{values} {read}");
        }
    }
}
