//! Replicas of a model on several devices, and whether they keep the same blocks.
//!
//! A pattern is a function of weights, reduced gradients and the step, so replicas that start equal and see equal
//! gradients keep the same blocks. But one sum that rounds differently on two devices can exchange two blocks of nearly
//! equal rank. From then on values would meet the gradients of other blocks, without any error. Therefore it is
//! checked.

use burn::module::Module;
use burn_blast_kernels::PatternId;
use burn_blast_kernels::pattern::fnv1a;

use super::BlastError;
use crate::window::weights;

/// A hash of the blocks that a model keeps. It is equal on every machine and in every run for models that keep the same
/// blocks in layers of the same names.
///
/// # Example
/// ```
/// use burn::tensor::Device;
/// use burn_blast::module::BlockSparseLinearConfig;
/// use burn_blast::prune::pattern_hash;
///
/// let config = BlockSparseLinearConfig::new(64, 64).with_sparsity(0.5);
/// let device = Device::flex();
/// assert_eq!(pattern_hash(&config.init(&device)), pattern_hash(&config.init(&device)));
/// assert_ne!(pattern_hash(&config.init(&device)), pattern_hash(&config.with_seed(1).init(&device)));
/// ```
pub fn pattern_hash<M: Module>(model: &M) -> u64 {
    // The zero ends a name.
    let bytes = |(layer, id): (String, PatternId)| {
        layer.into_bytes().into_iter().chain([0]).chain(id.get().to_le_bytes())
    };
    fnv1a(patterns(model).into_iter().flat_map(bytes))
}

/// Checks that replicas of a model keep the same blocks. Call it in a training loop of your own, after every update of
/// the pattern. Under Burn's distributed training [`Blast`](super::Blast) checks by itself.
///
/// # Errors
/// If a replica differs from the first.
pub fn check_replicas<M: Module>(replicas: &[M]) -> Result<(), BlastError> {
    let Some((first, others)) = replicas.split_first() else { return Ok(()) };
    let expected = patterns(first);
    for other in others {
        let found = patterns(other);
        // One of the two may have more layers.
        let layers = 0..expected.len().max(found.len());
        let differs = |at: &usize| expected.get(*at) != found.get(*at);
        if let Some(at) = layers.into_iter().find(differs) {
            let (layer, _) = expected.get(at).or(found.get(at)).expect("one of the two is longer");
            return Err(BlastError::ReplicasDiffer { layer: layer.clone() });
        }
    }
    Ok(())
}

fn patterns<M: Module>(model: &M) -> Vec<(String, PatternId)> {
    weights(model).into_iter().map(|weight| (weight.layer(), weight.pattern.id())).collect()
}
