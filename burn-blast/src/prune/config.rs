//! Settings of a pruning run.

use burn::config::Config;
use burn_blast_kernels::BlockPattern;
use serde::{Deserialize, Serialize};

use super::{BlastError, Budget};

/// Curve from the starting sparsity of a layer to its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Schedule {
    /// Fast at first, slow near the target: `s_f + (s_0 - s_f)(1 - t)³` (BLaST; Zhu and Gupta).
    Cubic,
    /// A straight line.
    Linear,
    /// The target at the first update, and no further updates.
    #[serde(alias = "OneShot")]
    Step,
    /// The target from the first update on, with blocks exchanged at that sparsity (RigL, SET).
    Constant,
    /// The cubic curve several times, each time from the start.
    Cyclic {
        /// How many times.
        cycles: usize,
    },
}

/// What kept blocks are ranked by. The lowest are dropped first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Score {
    /// Frobenius norm of the block.
    #[serde(alias = "Frobenius")]
    Frobenius,
    /// `Σ |w · g|` over the block, with the gradient of the update step.
    #[serde(alias = "Saliency")]
    Saliency,
    /// `-Σ w · g` over the block, summed over all steps: how much training moved it away from zero.
    #[serde(alias = "Movement")]
    Movement,
    /// `Σ (w · g)²` over the block, with the gradient of the update step (Molchanov et al. 2019).
    Taylor,
    /// `Σ w² · v` over the block, where *v* is the optimizer's running mean of squared gradients: the loss that a
    /// diagonal Fisher matrix predicts without the block. The optimizer must keep such a mean, as Adam does.
    Fisher,
}

/// What absent blocks are ranked by. The highest are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Growth {
    /// Norm of the block's gradient at the update step.
    #[serde(alias = "Gradient")]
    Gradient,
    /// A random number from the seed, the step and the layer.
    #[serde(alias = "Random")]
    Random,
    /// No block is added.
    #[serde(alias = "None")]
    None,
}

/// How the two rankings select blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeepRule {
    /// The best of the kept blocks and the best of the others, exactly the requested count.
    Exact,
    /// The rule of BLaST: the union of the top k by score and the top k by gradient. This is more than the requested
    /// count, except at the last update, which keeps the exact count.
    Union,
}

/// Another target for some layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerRule {
    /// Path of a layer, or of a module that contains it.
    pub path: String,
    /// Final share of blocks removed.
    pub sparsity: f64,
}

/// Plain [`nn::Linear`](burn::nn::Linear) layers to prune in place. Dropped blocks are exactly zero; the product stays
/// dense.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinearRule {
    /// Path of a layer, or of a module that contains it.
    pub path: String,
    /// Side of a block.
    pub block_size: usize,
}

/// Which blocks are selected together.
///
/// Layers are coupled if they share hidden features: `gate`, `up` and `down` of a
/// [`BlockSparseGatedMlp`](crate::module::BlockSparseGatedMlp), `up` and `down` of a
/// [`BlockSparseMlp`](crate::module::BlockSparseMlp), and what [`BlastConfig::couplings`] adds. A *group* is one block
/// of hidden features, through all coupled layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Structure {
    /// Every layer selects its own blocks. Some may be wasted: another layer has dropped all blocks of their features.
    Blocks,
    /// Coupled layers select their blocks together: a group has blocks in all of them or in none.
    /// `group_density` limits the number of groups.
    Coupled,
    /// Whole groups, the most important by score; `growth` plays no part, so a group that is dropped stays dropped.
    /// `compact` then makes the layers narrower.
    Groups,
}

/// Layers of a module that share features. Modules of this crate need none; name the layers of your own modules here.
///
/// A layer of an enum such as [`AnyLinear`](crate::module::AnyLinear) is meant by the path of the enum.
///
/// Attention heads with grouped keys: `into` is `["q_proj", "k_proj", "v_proj"]`, `out` is `["o_proj"]`, and `groups`
/// the number of key-value heads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coupling {
    /// Path of a module that has the layers, or of a module that contains such modules; empty for the whole model.
    pub path: String,
    /// Paths, from the module on, of the layers whose outputs are the shared features.
    pub into: Vec<String>,
    /// Paths, from the module on, of the layers whose inputs they are.
    pub out: Vec<String>,
    /// Number of groups; `None` for one per block.
    pub groups: Option<usize>,
}

/// Settings of [`Blast`](super::Blast). Steps are optimizer steps, not batches or epochs.
#[derive(Config, Debug)]
pub struct BlastConfig {
    /// Optimizer steps of the whole run.
    pub total_steps: usize,
    /// Final share of blocks removed, in `[0, 1)`.
    #[config(default = 0.9)]
    pub sparsity: f64,
    /// Steps from one update of the pattern to the next.
    #[config(default = 25)]
    pub interval: usize,
    /// Step of the first update, by default one interval after the start.
    #[config(default = "None")]
    pub start_step: Option<usize>,
    /// Share of the steps after which the pattern is fixed (the decay term of BLaST).
    #[config(default = 0.7)]
    pub end_fraction: f64,
    /// How sparsity rises from the start of a layer to its target.
    #[config(default = "Schedule::Cubic")]
    pub schedule: Schedule,
    /// Ranking of the kept blocks.
    #[config(default = "Score::Frobenius")]
    pub score: Score,
    /// What a step keeps of the running mean of [`Score::Saliency`] or [`Score::Taylor`]. With 0, the update step alone
    /// counts.
    #[config(default = 0.0)]
    pub score_decay: f64,
    /// Ranking of the absent blocks.
    #[config(default = "Growth::Gradient")]
    pub growth: Growth,
    /// Share of the kept blocks that is exchanged at the first update. It falls to 0 along half a cosine.
    #[config(default = 0.3)]
    pub growth_fraction: f64,
    /// Steps after its addition in which a block counts as the best of its layer, so that it is not dropped before it
    /// could grow.
    #[config(default = 0)]
    pub grace: usize,
    /// How the two rankings select blocks.
    #[config(default = "KeepRule::Exact")]
    pub keep: KeepRule,
    /// How the target is distributed over layers.
    ///
    /// Layers with a target of their own take no part in a global budget. While one of the others is frozen or gets
    /// no gradient, all keep their uniform share, and a warning is logged.
    #[config(default = "Budget::Uniform")]
    pub budget: Budget,
    /// Layers with a target of their own; the last match counts.
    #[config(default = "Vec::new()")]
    pub layers: Vec<LayerRule>,
    /// Paths of layers, or of modules that contain them, that are not pruned.
    #[config(default = "Vec::new()")]
    pub dense: Vec<String>,
    /// Number of linear layers at the end of the model that are not pruned.
    #[config(default = 0)]
    pub dense_last_linears: usize,
    /// Plain linear layers that are pruned in place.
    #[config(default = "Vec::new()")]
    pub linear: Vec<LinearRule>,
    /// Paths of modules, or of modules that contain them, whose pruned layers of one shape keep the same blocks: the
    /// blocks that the first layer selects. For gate and up of a gated MLP: the tensor-core kernel then loads the parts
    /// of their input once for both.
    #[config(default = "Vec::new()")]
    pub tied: Vec<String>,
    /// Which blocks are selected together.
    #[config(default = "Structure::Blocks")]
    pub structure: Structure,
    /// Largest share of groups that have blocks at the end, with [`Structure::Coupled`]; at least `1 - sparsity`. Below
    /// 1, the groups are selected first, then blocks inside them.
    #[config(default = 1.0)]
    pub group_density: f64,
    /// Layers that share features, besides those that the modules of this crate declare.
    #[config(default = "Vec::new()")]
    pub couplings: Vec<Coupling>,
    /// The learning rate of a block-sparse weight is multiplied by `density^-lr_exponent`. With 1, a learning rate that
    /// suits the dense model suits a model that starts sparse too, if its values are scaled for the inputs they have
    /// (sparse maximal update parameterisation, Dey et al. 2024, arXiv 2405.15743).
    #[config(default = 0.0)]
    pub lr_exponent: f64,
    /// Seed of random growth.
    #[config(default = 0)]
    pub seed: u64,
}

impl BlastConfig {
    /// Step of the first update.
    pub fn first_update(&self) -> usize {
        self.start_step.unwrap_or(self.interval)
    }

    /// Step of the last update.
    pub fn last_update(&self) -> usize {
        if self.schedule == Schedule::Step {
            return self.first_update();
        }
        let end = (self.end_fraction * self.total_steps as f64).round() as usize;
        end.max(self.first_update())
    }

    /// Whether the pattern may change at a step, counted from 1: at the first update, every interval after it, and at
    /// the last update. The last two are at least one interval apart.
    pub fn is_update(&self, step: usize) -> bool {
        let (first, last) = (self.first_update(), self.last_update());
        let regular = step >= first && (step - first).is_multiple_of(self.interval);
        step == last || (regular && step + self.interval <= last)
    }

    /// The latest update among the steps after `before` up to `now`.
    pub(super) fn update_due(&self, before: usize, now: usize) -> Option<usize> {
        (before + 1..=now).rev().find(|&step| self.is_update(step))
    }

    /// Largest share of groups that have blocks at a step.
    pub(super) fn group_density_at(&self, step: usize) -> f64 {
        1.0 - self.sparsity_at(step, 0.0, 1.0 - self.group_density)
    }

    /// Sparsity at a step of a layer that started at `start` and ends at `end`.
    pub fn sparsity_at(&self, step: usize, start: f64, end: f64) -> f64 {
        let (first, last) = (self.first_update(), self.last_update());
        if step < first {
            return start;
        }
        if step >= last {
            return end;
        }
        let progress = (step - first) as f64 / (last - first) as f64;
        let cubic = |t: f64| end + (start - end) * (1.0 - t).powi(3);
        match self.schedule {
            Schedule::Cubic => cubic(progress),
            Schedule::Linear => start + (end - start) * progress,
            Schedule::Step | Schedule::Constant => end,
            Schedule::Cyclic { cycles } => cubic((progress * cycles as f64).fract()),
        }
    }

    /// Share of the kept blocks to exchange at a step.
    pub fn growth_at(&self, step: usize) -> f64 {
        let progress = (step as f64 / self.last_update() as f64).min(1.0);
        self.growth_fraction * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
    }

    /// The learning rate of a weight with this pattern.
    pub(super) fn scaled_lr(&self, lr: f64, pattern: &BlockPattern) -> f64 {
        match pattern.nnz() {
            0 => lr,
            _ => lr * pattern.density().powf(-self.lr_exponent),
        }
    }

    /// Whether a layer of this density cannot have its blocks in the groups that stay.
    pub(super) fn exceeds_groups(&self, density: f64) -> bool {
        // 1 - 0.7 is a little more than 0.3.
        density > self.group_density + 1e-9
    }

    pub(super) fn too_few_groups(&self) -> BlastError {
        BlastError::Config {
            name: "group_density",
            found: self.group_density.to_string(),
            expected: "at most 1, and at least the density of every coupled layer",
        }
    }
}
