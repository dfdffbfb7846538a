//! Feed-forward blocks without the hidden features that pruning has cut off.
//!
//! A hidden feature is dead if nothing reads it, or if it is zero whatever the input. Dead features leave all layers of
//! the block: the same outputs from smaller matrices, which a dense product profits from as well.

use super::any_linear::whole_blocks;
use super::{AnyLinear, BlockSparseGatedMlp, BlockSparseLinear, BlockSparseMlp};

/// Which hidden features between layers are alive; `None` if all are. At least one block of them always is.
///
/// A feature is alive if `out` reads it and every layer of `into` can make it differ from zero. The activation
/// must be zero at zero. Blocks of block-sparse layers are alive as a whole.
///
/// # Panics
/// If the layers do not fit each other.
pub fn live_features(into: &[&AnyLinear], out: &AnyLinear) -> Option<Vec<bool>> {
    let mut alive = out.reads();
    for layer in into {
        let writes = layer.writes();
        assert!(writes.len() == alive.len(), "{} features into {}", writes.len(), alive.len());
        alive.iter_mut().zip(writes).for_each(|(alive, writes)| *alive &= writes);
    }
    // Block sizes are powers of two, so whole blocks of the largest are whole blocks of all.
    let sizes = into.iter().copied().chain([out]).filter_map(AnyLinear::block);
    let largest = sizes.max().unwrap_or(1);
    for block in alive.chunks_mut(largest) {
        let any = block.contains(&true);
        block.fill(any);
    }
    if !alive.contains(&true) {
        alive.iter_mut().take(largest).for_each(|first| *first = true);
    }
    alive.contains(&false).then_some(alive)
}

impl BlockSparseGatedMlp {
    /// The block without dead hidden features: `gate` or `up` is zero for them, bias included, or `down` reads nothing
    /// of them. One block of features is always kept.
    ///
    /// Outputs are the same up to the order of sums. Layers that shrink are new: compact a model before its optimizer
    /// is attached, or when training is done.
    ///
    /// # Panics
    /// If the layers have different block sizes.
    pub fn compact(&self) -> Self {
        let Some(alive) = live(&[&self.gate, &self.up], &self.down) else { return self.clone() };
        let shape = |layer: &BlockSparseLinear| layer.pattern().shape();
        let (inputs, outputs) =
            (vec![true; shape(&self.up).rows()], vec![true; shape(&self.down).cols()]);
        Self {
            gate: whole_blocks(&self.gate, &inputs, &alive),
            up: whole_blocks(&self.up, &inputs, &alive),
            down: whole_blocks(&self.down, &alive, &outputs),
            activation: self.activation,
        }
    }
}

impl BlockSparseMlp {
    /// The block without dead hidden features, as [`BlockSparseGatedMlp::compact`].
    ///
    /// # Panics
    /// If the layers have different block sizes.
    pub fn compact(&self) -> Self {
        let Some(alive) = live(&[&self.up], &self.down) else { return self.clone() };
        let (d_input, d_output) =
            (self.up.pattern().shape().rows(), self.down.pattern().shape().cols());
        Self {
            up: whole_blocks(&self.up, &vec![true; d_input], &alive),
            down: whole_blocks(&self.down, &alive, &vec![true; d_output]),
            activation: self.activation,
        }
    }
}

fn live(into: &[&BlockSparseLinear], out: &BlockSparseLinear) -> Option<Vec<bool>> {
    let block = out.pattern().block();
    assert!(
        into.iter().all(|layer| layer.pattern().block() == block),
        "only layers of one block size can be compacted together"
    );
    let any = |layer: &&BlockSparseLinear| AnyLinear::Sparse((*layer).clone());
    let into: Vec<AnyLinear> = into.iter().map(any).collect();
    live_features(&into.iter().collect::<Vec<_>>(), &any(&out))
}
