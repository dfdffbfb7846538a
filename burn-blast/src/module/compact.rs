//! Feed-forward blocks without the hidden features that pruning has cut off.
//!
//! A block of hidden features is dead if nothing reads it, or if it is zero whatever the input. Dead ones leave all
//! layers of the block: the same outputs from smaller matrices, which also a dense product profits from.

use super::{BlockSparseGatedMlp, BlockSparseLinear, BlockSparseMlp};

impl BlockSparseGatedMlp {
    /// The block without dead hidden features: those whose block column of `gate` or `up` is empty, in a layer
    /// without bias, or whose block row of `down` is. One block of them always stays.
    ///
    /// Outputs are the same up to the order of sums. The layers are new: compact a model before its optimizer is
    /// attached, or when it is done.
    ///
    /// # Panics
    /// If the layers have different block sizes.
    pub fn compact(&self) -> Self {
        check_blocks(&[&self.gate, &self.up, &self.down]);
        let (gate, up) = (outputs(&self.gate), outputs(&self.up));
        let alive = inputs(&self.down).into_iter().zip(gate.into_iter().zip(up));
        let keep = at_least_one(alive.map(|(down, (gate, up))| down && gate && up).collect());
        Self {
            gate: self.gate.part(&all_inputs(&self.gate), &keep),
            up: self.up.part(&all_inputs(&self.up), &keep),
            down: self.down.part(&keep, &all_outputs(&self.down)),
            activation: self.activation,
        }
    }
}

impl BlockSparseMlp {
    /// The block without dead hidden features: those whose block column of `up` is empty, if it has no bias, or
    /// whose block row of `down` is. One block of them always stays.
    ///
    /// As for [`BlockSparseGatedMlp::compact`].
    ///
    /// # Panics
    /// If the layers have different block sizes.
    pub fn compact(&self) -> Self {
        check_blocks(&[&self.up, &self.down]);
        // Activations are zero at zero.
        let alive = inputs(&self.down).into_iter().zip(outputs(&self.up));
        let keep = at_least_one(alive.map(|(down, up)| down && up).collect());
        Self {
            up: self.up.part(&all_inputs(&self.up), &keep),
            down: self.down.part(&keep, &all_outputs(&self.down)),
            activation: self.activation,
        }
    }
}

fn check_blocks(layers: &[&BlockSparseLinear]) {
    let block = |layer: &BlockSparseLinear| layer.pattern().block();
    assert!(
        layers.iter().all(|layer| block(layer) == block(layers[0])),
        "only layers of one block size can be compacted together"
    );
}

/// Which blocks of output features may differ from zero.
fn outputs(layer: &BlockSparseLinear) -> Vec<bool> {
    let biased = layer.bias.is_some();
    layer.pattern().col_ptr().windows(2).map(|ends| biased || ends[0] < ends[1]).collect()
}

/// Which blocks of input features are read.
fn inputs(layer: &BlockSparseLinear) -> Vec<bool> {
    layer.pattern().row_ptr().windows(2).map(|ends| ends[0] < ends[1]).collect()
}

fn all_inputs(layer: &BlockSparseLinear) -> Vec<bool> {
    vec![true; layer.pattern().block_rows()]
}

fn all_outputs(layer: &BlockSparseLinear) -> Vec<bool> {
    vec![true; layer.pattern().block_cols()]
}

fn at_least_one(mut keep: Vec<bool>) -> Vec<bool> {
    if !keep.contains(&true) {
        keep[0] = true;
    }
    keep
}
