//! What a run asks of each layer.

use burn_blast_kernels::budget::erdos_renyi;
use burn_blast_kernels::{BlockPattern, BlockSize, MatrixShape};

use super::{BlastConfig, BlastError, Budget};
use crate::window::LayerId;

/// A layer of a model that can be pruned.
pub(super) struct ModelLayer {
    /// Path of the layer, for messages and filters.
    pub(super) path: String,
    /// Path of its weight, or of the values of its weight.
    pub(super) parameter: String,
    /// Type of the module that has the layer as a field.
    pub(super) container: String,
    pub(super) pattern: BlockPattern,
    /// A plain linear weight, pruned in place.
    pub(super) masked: bool,
    pub(super) quantized: bool,
}

/// What is asked of one layer.
#[derive(Debug, Clone)]
pub(super) struct LayerTarget {
    pub(super) layer: LayerId,
    /// Path of the layer, for messages and reports.
    pub(super) name: String,
    pub(super) shape: MatrixShape,
    pub(super) block: BlockSize,
    /// Final sparsity; `None` keeps the layer as it is.
    pub(super) sparsity: Option<f64>,
    /// The layer has a target of its own and takes no part in a global ranking.
    pub(super) fixed: bool,
    /// A plain linear weight, pruned in place.
    pub(super) masked: bool,
    /// The layer whose pattern this one adopts.
    pub(super) leader: Option<LayerId>,
    /// The layer selects its blocks together with others.
    pub(super) coupled: bool,
}

impl LayerTarget {
    pub(super) fn blocks(&self) -> usize {
        self.shape.block_rows(self.block) * self.shape.block_cols(self.block)
    }

    /// Whether the layer selects blocks of its own.
    pub(super) fn selects(&self) -> bool {
        self.sparsity.is_some() && self.leader.is_none()
    }
}

/// Whether `path` is `filter` or inside it.
pub(super) fn inside(path: &str, filter: &str) -> bool {
    path.strip_prefix(filter).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Gives every layer of a model its target and its leader.
pub(super) fn layer_targets(
    config: &BlastConfig,
    layers: &[ModelLayer],
) -> Result<Vec<LayerTarget>, BlastError> {
    if layers.is_empty() {
        return Err(BlastError::NothingToPrune);
    }
    check_filters(config, layers)?;
    let first_exempt = layers.len().saturating_sub(config.dense_last_linears);
    let exempt = |at: usize| {
        at >= first_exempt || config.dense.iter().any(|filter| inside(&layers[at].path, filter))
    };
    let pruned: Vec<usize> = (0..layers.len()).filter(|&at| !exempt(at)).collect();
    if pruned.is_empty() {
        return Err(BlastError::AllDense);
    }
    if let Some(&at) = pruned.iter().find(|&&at| layers[at].quantized) {
        return Err(BlastError::Quantized { layer: layers[at].path.clone() });
    }
    let grids: Vec<(usize, usize)> = pruned
        .iter()
        .map(|&at| (layers[at].pattern.block_rows(), layers[at].pattern.block_cols()))
        .collect();
    let densities = match config.budget {
        Budget::ErdosRenyi => erdos_renyi(&grids, 1.0 - config.sparsity),
        Budget::Uniform | Budget::Global { .. } => vec![1.0 - config.sparsity; grids.len()],
    };
    let untouched = |(at, layer): (usize, &ModelLayer)| LayerTarget {
        layer: LayerId(at),
        name: layer.path.clone(),
        shape: layer.pattern.shape(),
        block: layer.pattern.block(),
        sparsity: None,
        fixed: false,
        masked: layer.masked,
        leader: None,
        coupled: false,
    };
    let mut targets: Vec<LayerTarget> = layers.iter().enumerate().map(untouched).collect();
    for (&at, density) in pruned.iter().zip(densities) {
        let own = config.layers.iter().rev().find(|rule| inside(&layers[at].path, &rule.path));
        targets[at].fixed = own.is_some();
        targets[at].sparsity = Some(own.map_or(1.0 - density, |rule| rule.sparsity));
    }
    tie(config, &mut targets)?;
    Ok(targets)
}

/// Refuses path filters that match no layer.
fn check_filters(config: &BlastConfig, layers: &[ModelLayer]) -> Result<(), BlastError> {
    let rules = config.layers.iter().map(|rule| &rule.path);
    let linear = config.linear.iter().map(|rule| &rule.path);
    let mut filters = config.dense.iter().chain(rules).chain(linear).chain(&config.tied);
    let useless = filters.find(|filter| !layers.iter().any(|layer| inside(&layer.path, filter)));
    let Some(filter) = useless else { return Ok(()) };
    let layers: Vec<&str> = layers.iter().map(|layer| layer.path.as_str()).collect();
    Err(BlastError::FilterMatchesNothing { filter: filter.clone(), layers: layers.join(", ") })
}

/// Gives tied layers their leader: the first layer of the same shape in the same module.
fn tie(config: &BlastConfig, targets: &mut [LayerTarget]) -> Result<(), BlastError> {
    let parent =
        |target: &LayerTarget| target.name.rsplit_once('.').map(|(parent, _)| parent.to_owned());
    let tied = |target: &LayerTarget, filter: &str| {
        target.sparsity.is_some() && !target.masked && inside(&target.name, filter)
    };
    for filter in &config.tied {
        let members: Vec<usize> =
            (0..targets.len()).filter(|&at| tied(&targets[at], filter)).collect();
        let mut found = false;
        for &at in &members {
            let same = |other: &LayerTarget| {
                let grid = |target: &LayerTarget| (parent(target), target.shape, target.block);
                other.leader.is_none() && grid(other) == grid(&targets[at])
            };
            let leader = members.iter().copied().find(|&first| first < at && same(&targets[first]));
            if let Some(leader) = leader {
                targets[at].leader = Some(LayerId(leader));
                targets[at].sparsity = targets[leader].sparsity;
                found = true;
            }
        }
        if !found {
            return Err(BlastError::NothingToTie { filter: filter.clone() });
        }
    }
    Ok(())
}
