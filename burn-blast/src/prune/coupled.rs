//! Joint selection of the layers that share hidden features.
//!
//! A hidden feature of a gated MLP is a column of `gate` and of `up`, and a row of `down`. If one of them drops all its
//! blocks of a feature, the blocks that the others keep for it compute nothing. Here the layers select together, so
//! that a group of features has blocks in all of them or in none.

use burn_blast_kernels::BlockMask;
use burn_blast_kernels::budget::keep_top;

use super::select::{Ranked, select_mask};
use super::{Growth, KeepRule};

/// One of the layers that select together.
#[derive(Debug)]
pub(super) struct Member<'a> {
    pub(super) ranked: Ranked<'a>,
    /// Blocks to keep.
    pub(super) keep: usize,
    /// Of these, blocks selected by growth.
    pub(super) exchange: usize,
    /// Seed of random growth.
    pub(super) seed: u64,
    /// Group of features of each block number.
    pub(super) groups: &'a [usize],
}

impl Member<'_> {
    /// Blocks of a group that may be kept: without growth only those that are kept now.
    fn available(&self, growth: Growth, group: usize) -> impl Iterator<Item = usize> {
        let grows = match growth {
            Growth::Gradient => self.ranked.gradients.is_some(),
            Growth::Random => true,
            Growth::None => false,
        };
        let of_group = (0..self.groups.len()).filter(move |&at| self.groups[at] == group);
        of_group.filter(move |&at| grows || self.ranked.current.contains(at))
    }

    fn capacity(&self, growth: Growth, alive: &[bool]) -> usize {
        let alive = (0..alive.len()).filter(|&group| alive[group]);
        alive.map(|group| self.available(growth, group).count()).sum()
    }

    fn select(&self, growth: Growth, alive: &[bool]) -> BlockMask {
        let allowed: Vec<bool> = self.groups.iter().map(|&group| alive[group]).collect();
        let ranked = Ranked { allowed: Some(&allowed), ..self.ranked.clone() };
        select_mask(&ranked, self.keep, self.exchange, growth, KeepRule::Exact, self.seed)
    }

    /// Blocks of a mask in each group.
    fn counts(&self, mask: &BlockMask, groups: usize) -> Vec<usize> {
        let mut counts = vec![0; groups];
        mask.indices().for_each(|at| counts[self.groups[at]] += 1);
        counts
    }

    fn is_kept(&self, block: usize) -> bool {
        self.ranked.current.contains(block)
    }

    /// Score of a block; the lowest if it is not kept now or has no number.
    fn score(&self, block: usize) -> f32 {
        let score = self.ranked.scores[block];
        if self.is_kept(block) && !score.is_nan() { score } else { f32::NEG_INFINITY }
    }

    /// Share of the layer's importance that each block has. Scores of either sign are taken from the lowest.
    fn shares(&self) -> Vec<f64> {
        let finite = |at: usize| Some(self.score(at)).filter(|score| score.is_finite());
        let scores: Vec<Option<f32>> = (0..self.groups.len()).map(finite).collect();
        let lowest = scores.iter().flatten().fold(0.0_f32, |low, &score| low.min(score));
        let above = |score: &Option<f32>| score.map_or(0.0, |score| f64::from(score - lowest));
        let total: f64 = scores.iter().map(above).sum();
        scores.iter().map(|score| if total > 0.0 { above(score) / total } else { 0.0 }).collect()
    }

    /// Gives every living group at least one block: its best one, in exchange for the worst block of the groups that
    /// have several.
    fn support(&self, mask: BlockMask, growth: Growth, alive: &[bool]) -> BlockMask {
        let mut counts = self.counts(&mask, alive.len());
        let mut kept: Vec<usize> = mask.indices().collect();
        for group in (0..alive.len()).filter(|&group| alive[group]) {
            if counts[group] > 0 {
                continue;
            }
            let mut blocks: Vec<usize> = self.available(growth, group).collect();
            let kept_before = blocks.iter().any(|&block| self.is_kept(block));
            blocks.retain(|&block| self.is_kept(block) == kept_before);
            let gradient = |block: usize| self.ranked.gradients.map_or(0.0, |norms| norms[block]);
            let rank =
                |&block: &usize| if kept_before { self.score(block) } else { gradient(block) };
            let ranks: Vec<f32> = blocks.iter().map(rank).collect();
            let Some(&best) = keep_top(&ranks, 1).first() else { continue };
            let several: Vec<usize> =
                (0..kept.len()).filter(|&at| counts[self.groups[kept[at]]] > 1).collect();
            let scores: Vec<f32> = several.iter().map(|&at| -self.score(kept[at])).collect();
            if kept.len() >= self.keep
                && let Some(&worst) = keep_top(&scores, 1).first()
            {
                counts[self.groups[kept[several[worst]]]] -= 1;
                kept.swap_remove(several[worst]);
            }
            kept.push(blocks[best]);
            counts[group] += 1;
        }
        BlockMask::from_indices(mask.shape(), mask.block(), kept)
    }
}

/// Importance of each group: the sum of the shares of its blocks.
fn importance(members: &[Member<'_>], groups: usize) -> Vec<f32> {
    let mut sums = vec![0.0; groups];
    for member in members {
        for (&group, share) in member.groups.iter().zip(member.shares()) {
            sums[group] += share;
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// The `count` most important of the groups that live.
fn strongest(importance: &[f32], alive: &[bool], count: usize) -> Vec<bool> {
    let living: Vec<usize> = (0..alive.len()).filter(|&group| alive[group]).collect();
    let scores: Vec<f32> = living.iter().map(|&group| importance[group]).collect();
    let mut kept = vec![false; alive.len()];
    keep_top(&scores, count).into_iter().for_each(|at| kept[living[at]] = true);
    kept
}

/// Selects whole groups: the `count` most important of them, with all their blocks.
pub(super) fn whole_groups(members: &[Member<'_>], groups: usize, count: usize) -> Vec<BlockMask> {
    let alive = strongest(&importance(members, groups), &vec![true; groups], count);
    let whole = |member: &Member<'_>| {
        let kept = (0..member.groups.len()).filter(|&at| alive[member.groups[at]]);
        let current = member.ranked.current;
        BlockMask::from_indices(current.shape(), current.block(), kept)
    };
    members.iter().map(whole).collect()
}

/// Selects blocks of at most `count` groups, so that a group has blocks in every layer or in none.
///
/// Each layer keeps exactly its own number of blocks, unless the groups that live have fewer that may be kept. If no
/// group can live, since no block may be added, the layers select alone.
pub(super) fn blocks_in_groups(
    members: &[Member<'_>],
    growth: Growth,
    groups: usize,
    count: usize,
) -> Vec<BlockMask> {
    let importance = importance(members, groups);
    let possible = |group| members.iter().all(|m| m.available(growth, group).next().is_some());
    let possible: Vec<bool> = (0..groups).map(possible).collect();
    let fewest = members.iter().map(|member| member.keep).min().unwrap_or(0);
    let select = |alive: &[bool]| -> Vec<BlockMask> {
        members.iter().map(|member| member.select(growth, alive)).collect()
    };
    if !possible.contains(&true) {
        return select(&vec![true; groups]);
    }
    let mut alive = strongest(&importance, &possible, count.min(fewest));
    loop {
        let masks = select(&alive);
        let counts: Vec<Vec<usize>> =
            members.iter().zip(&masks).map(|(member, mask)| member.counts(mask, groups)).collect();
        let some = |group: usize| counts.iter().any(|counts| counts[group] > 0);
        let every = |group: usize| counts.iter().all(|counts| counts[group] > 0);
        let wasted: Vec<bool> = (0..groups).map(|group| some(group) && !every(group)).collect();
        let wasteful = wasted.iter().filter(|&&wasted| wasted).count();
        if wasteful == 0 {
            return masks;
        }
        // The stronger half may become whole when the weaker half has left.
        let stay = strongest(&importance, &wasted, wasteful / 2);
        let fewer: Vec<bool> = (0..groups).map(|group| every(group) || stay[group]).collect();
        let fits = |member: &Member<'_>| member.capacity(growth, &fewer) >= member.keep;
        if !members.iter().all(fits) {
            let living: Vec<bool> = (0..groups).map(some).collect();
            let support =
                |(member, mask): (&Member<'_>, BlockMask)| member.support(mask, growth, &living);
            return members.iter().zip(masks).map(support).collect();
        }
        alive = fewer;
    }
}

#[cfg(test)]
mod tests {
    use burn_blast_kernels::{BlockSize, MatrixShape};
    use proptest::prelude::*;

    use super::*;

    const INPUTS: usize = 3;
    const GROUPS: usize = 6;

    /// Rankings of gate, up and down of 3 input blocks, 6 groups and 3 output blocks.
    #[derive(Debug, Clone)]
    struct Layer {
        current: Vec<usize>,
        scores: Vec<f32>,
        gradients: Vec<f32>,
    }

    fn layer() -> impl Strategy<Value = Layer> {
        let blocks = INPUTS * GROUPS;
        // Few distinct values, so that ties are the rule.
        let ranks = || prop::collection::vec(-2_i8..3, blocks);
        let current = prop::collection::btree_set(0..blocks, 1..=blocks);
        (current, ranks(), ranks()).prop_map(|(current, scores, gradients)| Layer {
            current: current.into_iter().collect(),
            scores: scores.into_iter().map(f32::from).collect(),
            gradients: gradients.into_iter().map(f32::from).collect(),
        })
    }

    /// Shape in blocks, and groups, of `gate` (0), `up` (1) and `down` (2).
    fn geometry(at: usize) -> (MatrixShape, Vec<usize>) {
        let by_rows = at == 2;
        let (rows, cols) = if by_rows { (GROUPS, INPUTS) } else { (INPUTS, GROUPS) };
        let group = |block: usize| if by_rows { block / cols } else { block % cols };
        let shape = MatrixShape::new(8 * rows, 8 * cols).unwrap();
        (shape, (0..rows * cols).map(group).collect())
    }

    fn with_members<T>(
        layers: &[Layer],
        keep: usize,
        exchange: usize,
        run: impl FnOnce(&[Member<'_>]) -> T,
    ) -> T {
        let block = BlockSize::new(8).unwrap();
        let parts: Vec<(BlockMask, Vec<usize>)> = (0..layers.len())
            .map(|at| {
                let (shape, groups) = geometry(at);
                (BlockMask::from_indices(shape, block, layers[at].current.iter().copied()), groups)
            })
            .collect();
        let members: Vec<Member<'_>> = parts
            .iter()
            .zip(layers)
            .map(|((current, groups), layer)| Member {
                ranked: Ranked {
                    current,
                    scores: &layer.scores,
                    gradients: Some(&layer.gradients),
                    allowed: None,
                },
                keep,
                exchange,
                seed: 7,
                groups,
            })
            .collect();
        run(&members)
    }

    /// Groups in which each mask has blocks.
    fn living(members: &[Member<'_>], masks: &[BlockMask]) -> Vec<Vec<bool>> {
        let lives = |(member, mask): (&Member<'_>, &BlockMask)| {
            member.counts(mask, GROUPS).into_iter().map(|count| count > 0).collect()
        };
        members.iter().zip(masks).map(lives).collect()
    }

    proptest! {
        #[test]
        fn no_block_is_wasted_and_counts_are_exact(
            layers in prop::collection::vec(layer(), 3),
            keep in 1_usize..=INPUTS * GROUPS,
            exchange in 0_usize..8,
            growth in prop::sample::select(vec![Growth::Gradient, Growth::Random, Growth::None]),
            count in 1_usize..=GROUPS,
        ) {
            with_members(&layers, keep, exchange, |members| {
                let masks = blocks_in_groups(members, growth, GROUPS, count);
                prop_assert!(masks.iter().all(|mask| mask.count() > 0));
                let shared = |group| members.iter().all(|m| m.available(growth, group).next().is_some());
                if !(0..GROUPS).any(shared) {
                    return Ok(());
                }
                let living = living(members, &masks);
                prop_assert!(living.iter().all(|lives| *lives == living[0]), "{living:?}");
                let groups = living[0].iter().filter(|lives| **lives).count();
                prop_assert!(groups <= count);
                for (member, mask) in members.iter().zip(&masks) {
                    prop_assert!(mask.count() <= keep);
                    if growth == Growth::None {
                        prop_assert_eq!(mask.difference(member.ranked.current).count(), 0);
                    } else {
                        // Fewer only if all blocks of the groups are kept.
                        let most = keep.min(INPUTS * count);
                        prop_assert_eq!(mask.count(), most);
                    }
                }
                prop_assert_eq!(&masks, &blocks_in_groups(members, growth, GROUPS, count));
                Ok(())
            })?;
        }

        #[test]
        fn whole_groups_are_the_same_in_all_layers(
            layers in prop::collection::vec(layer(), 3),
            count in 1_usize..=GROUPS,
        ) {
            with_members(&layers, 1, 0, |members| {
                let masks = whole_groups(members, GROUPS, count);
                let living = living(members, &masks);
                prop_assert!(living.iter().all(|lives| *lives == living[0]));
                prop_assert!(masks.iter().all(|mask| mask.count() == INPUTS * count));
                Ok(())
            })?;
        }
    }

    #[test]
    fn a_group_that_one_layer_drops_leaves_all() {
        let blocks = INPUTS * GROUPS;
        let scored = |strong: &[usize], at: usize| {
            let (_, groups) = geometry(at);
            let score = |group: &usize| if strong.contains(group) { 9.0 } else { 1.0 };
            let scores = groups.iter().map(score).collect();
            Layer { current: (0..blocks).collect(), scores, gradients: vec![0.0; blocks] }
        };
        // Groups 0 and 1 are strong everywhere; 2 in gate and 3 in up only.
        let layers = [scored(&[0, 1, 2], 0), scored(&[0, 1, 3], 1), scored(&[0, 1], 2)];
        with_members(&layers, 2 * INPUTS, 0, |members| {
            let masks = blocks_in_groups(members, Growth::None, GROUPS, GROUPS);
            let living = living(members, &masks);
            assert_eq!(living[0], [true, true, false, false, false, false]);
            assert!(living.iter().all(|lives| *lives == living[0]));
            assert!(masks.iter().all(|mask| mask.count() == 2 * INPUTS));
        });
    }
}
