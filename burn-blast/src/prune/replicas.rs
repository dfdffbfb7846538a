//! Replicas of a model on several devices, and whether they keep the same blocks.
//!
//! A pattern is a function of weights, reduced gradients and the step. Replicas that start equal and see equal
//! gradients keep equal blocks; one rounded sum that differs between two devices can exchange two blocks of nearly
//! equal rank, and from there on values meet gradients of other blocks. That would not fail, only train badly, so it is
//! checked.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use burn_blast_kernels::PatternId;
use thiserror::Error;

use super::layer_name;
use crate::window;

/// Replicas keep different blocks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "replicas keep different blocks in layer \"{layer}\": start them from the same weights and optimizer state, reduce \
     gradients before the optimizer steps, and use devices of one kind, whose sums round alike"
)]
pub struct ReplicaError {
    /// Path of the first layer that differs.
    pub layer: String,
}

/// Which blocks a model keeps, as one number: equal on every machine and in every run for models that keep the same
/// blocks in layers of the same names.
///
/// # Example
/// ```
/// use burn::tensor::Device;
/// use burn_blast::BlockSparseLinearConfig;
/// use burn_blast::prune::pattern_hash;
///
/// let config = BlockSparseLinearConfig::new(64, 64).with_sparsity(0.5);
/// let device = Device::flex();
/// assert_eq!(pattern_hash(&config.init(&device)), pattern_hash(&config.init(&device)));
/// assert_ne!(pattern_hash(&config.init(&device)), pattern_hash(&config.with_seed(1).init(&device)));
/// ```
pub fn pattern_hash<M: Module>(model: &M) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for (layer, id) in patterns(model) {
        // FNV-1a, as for the patterns themselves. The zero ends a name.
        for byte in layer.bytes().chain([0]).chain(id.get().to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash
}

/// Checks that replicas of a model keep the same blocks: for training loops of your own, after every update of the
/// pattern. Under Burn's distributed training [`Blast`](super::Blast) does it by itself.
///
/// # Errors
/// If a replica differs from the first.
pub fn check_replicas<M: Module>(replicas: &[M]) -> Result<(), ReplicaError> {
    let Some((first, others)) = replicas.split_first() else { return Ok(()) };
    let expected = patterns(first);
    for other in others {
        let found = patterns(other);
        if let Some(((layer, _), _)) = expected.iter().zip(&found).find(|(one, other)| one != other)
        {
            return Err(ReplicaError { layer: layer.clone() });
        }
    }
    Ok(())
}

fn patterns<M: Module>(model: &M) -> Vec<(String, PatternId)> {
    let mut finder = Finder { path: Vec::new(), found: Vec::new() };
    model.visit(&mut finder);
    finder.found
}

struct Finder {
    path: Vec<String>,
    found: Vec<(String, PatternId)>,
}

impl ModuleVisitor for Finder {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<D>>) {
        window::with(|window| {
            if window.stage == window::Stage::Values {
                let name = layer_name(&self.path.join("."), "weight.values");
                self.found.push((name, window.pattern.id()));
            }
        });
    }
}
