//! How many blocks each weight of a model keeps, and which ones. Counts are exact; ties go to the lower position.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How the blocks to keep are distributed over the weights of a model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Budget {
    /// Every weight has the same sparsity.
    Uniform,
    /// Erdős–Rényi over the block grid (SET, RigL): density is proportional to `(rows + cols) / (rows · cols)`, so
    /// small weights keep more.
    ErdosRenyi,
    /// The blocks of all weights are ranked together by score. Every weight keeps a density within bounds.
    Global {
        /// Least density of a weight.
        min_density: f64,
        /// Greatest density of a weight.
        max_density: f64,
    },
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => write!(f, "uniform"),
            Self::ErdosRenyi => write!(f, "Erdős–Rényi"),
            Self::Global { min_density, max_density } => {
                write!(f, "global, density {min_density} to {max_density}")
            }
        }
    }
}

/// Number of blocks kept in a grid of `blocks`, where `sparsity` is the share removed; at least one.
pub fn kept_blocks(sparsity: f64, blocks: usize) -> usize {
    (((1.0 - sparsity) * blocks as f64).round() as usize).max(1)
}

/// Positions of the `count` highest scores, highest first. Ties go to the lower position; NaN ranks last.
pub fn keep_top(scores: &[f32], count: usize) -> Vec<usize> {
    let rank = |at: &usize| {
        let score = scores[*at];
        if score.is_nan() { f32::NEG_INFINITY } else { score }
    };
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // Stable, so equal scores stay in order of position. Zeros of either sign are equal.
    order.sort_by(|a, b| (rank(b) + 0.0).total_cmp(&(rank(a) + 0.0)));
    order.truncate(count);
    order
}

/// Densities of weights with grids of `(block rows, block cols)` under [`Budget::ErdosRenyi`], whose average over all
/// blocks is `density`.
///
/// A weight whose density would exceed 1 is kept whole, and the remaining blocks are distributed over the others.
pub fn erdos_renyi(grids: &[(usize, usize)], density: f64) -> Vec<f64> {
    let blocks = |&(rows, cols): &(usize, usize)| (rows * cols) as f64;
    let weight = |&(rows, cols): &(usize, usize)| (rows + cols) as f64 / (rows * cols) as f64;
    let total: f64 = grids.iter().map(blocks).sum::<f64>() * density;
    let mut full = vec![false; grids.len()];
    loop {
        let (mut left, mut share) = (total, 0.0);
        for (grid, &full) in grids.iter().zip(&full) {
            if full {
                left -= blocks(grid);
            } else {
                share += weight(grid) * blocks(grid);
            }
        }
        let scale = if share > 0.0 { left.max(0.0) / share } else { 0.0 };
        let overfull: Vec<usize> =
            (0..grids.len()).filter(|&at| !full[at] && scale * weight(&grids[at]) > 1.0).collect();
        if overfull.is_empty() {
            let density = |(grid, &full): (&(usize, usize), &bool)| {
                if full { 1.0 } else { scale * weight(grid) }
            };
            return grids.iter().zip(&full).map(density).collect();
        }
        overfull.into_iter().for_each(|at| full[at] = true);
    }
}

/// Scores of one weight for the ranking of [`Budget::Global`].
#[derive(Debug, Clone)]
pub struct LayerScores {
    /// Scores of its kept blocks.
    pub scores: Vec<f32>,
    /// Blocks of its grid.
    pub blocks: usize,
    /// Blocks it keeps under [`Budget::Uniform`].
    pub uniform_count: usize,
}

/// Number of blocks that each weight keeps under [`Budget::Global`]. Ties go to the earlier weight, then to the earlier
/// block.
pub fn global(layers: &[LayerScores], min_density: f64, max_density: f64) -> Vec<usize> {
    let total: usize = layers.iter().map(|layer| layer.uniform_count).sum();
    let bound = |density: f64, layer: &LayerScores| {
        ((density * layer.blocks as f64).round() as usize).min(layer.scores.len())
    };
    let mut kept: Vec<usize> = layers
        .iter()
        .map(|layer| bound(min_density, layer).max(1).min(layer.scores.len()))
        .collect();
    // While the schedule is still above the upper bound, the schedule is the ceiling.
    let ceiling = |layer: &LayerScores| {
        bound(max_density, layer).max(layer.uniform_count.min(layer.scores.len()))
    };
    let ceiling: Vec<usize> = layers.iter().map(ceiling).collect();

    // Blocks between the floor and the ceiling of their layer are ranked together.
    let mut open = Vec::new();
    for (at, layer) in layers.iter().enumerate() {
        let order = keep_top(&layer.scores, layer.scores.len());
        let range = kept[at]..ceiling[at].max(kept[at]);
        open.extend(order[range].iter().map(|&block| (layer.scores[block], at)));
    }
    let scores: Vec<f32> = open.iter().map(|&(score, _)| score).collect();
    let left = total.saturating_sub(kept.iter().sum());
    for chosen in keep_top(&scores, left.min(scores.len())) {
        kept[open[chosen].1] += 1;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_name_themselves() {
        let budgets = [
            Budget::Uniform,
            Budget::ErdosRenyi,
            Budget::Global { min_density: 0.1, max_density: 1.0 },
        ];
        let names = budgets.map(|budget| budget.to_string());
        assert_eq!(names, ["uniform", "Erdős–Rényi", "global, density 0.1 to 1"]);
    }

    #[test]
    fn erdos_renyi_meets_the_average_and_favours_small_layers() {
        let grids = [(4, 4), (16, 16), (64, 8)];
        let densities = erdos_renyi(&grids, 0.2);
        let kept: f64 = grids.iter().zip(&densities).map(|(&(r, c), d)| (r * c) as f64 * d).sum();
        let total: f64 = grids.iter().map(|&(r, c)| (r * c) as f64).sum();
        assert!((kept / total - 0.2).abs() < 1e-9);
        assert!(densities[0] > densities[1]);
        assert!(densities.iter().all(|density| (0.0..=1.0).contains(density)));
    }

    #[test]
    fn global_ranking_keeps_the_total_within_floor_and_ceiling() {
        let layer =
            |scores: Vec<f32>, uniform_count| LayerScores { blocks: 8, scores, uniform_count };
        let strong = layer((0..8).map(|at| 10.0 + at as f32).collect(), 4);
        let weak = layer((0..8).map(|at| at as f32 / 8.0).collect(), 4);
        assert_eq!(global(&[strong.clone(), weak.clone()], 0.0, 1.0), [7, 1]);
        assert_eq!(global(&[strong.clone(), weak.clone()], 0.25, 1.0), [6, 2]);
        assert_eq!(global(&[strong.clone(), weak.clone()], 0.0, 0.75), [6, 2]);
        // The uniform count is still above the ceiling, which does not bind yet.
        assert_eq!(global(&[strong, weak], 0.0, 0.25), [4, 4]);
    }
}
