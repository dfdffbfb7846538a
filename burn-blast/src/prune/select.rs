//! Selection: from rankings to a mask of the exact count.

use burn_blast_kernels::BlockMask;
use burn_blast_kernels::budget::keep_top;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{Growth, KeepRule};

/// What a selection ranks blocks by.
#[derive(Debug, Clone)]
pub(super) struct Ranked<'a> {
    /// Blocks kept so far.
    pub(super) current: &'a BlockMask,
    /// Score of each block number. Only scores of kept blocks are read.
    pub(super) scores: &'a [f32],
    /// Gradient norm of each block number, if known.
    pub(super) gradients: Option<&'a [f32]>,
    /// Whether each block number may be kept; `None` if all may.
    pub(super) allowed: Option<&'a [bool]>,
}

/// Selects exactly `keep` blocks, or fewer if no block may be added and fewer are kept already.
///
/// The best `keep - exchange` of the kept blocks stay. The others are selected by gradient or at random among all
/// blocks that do not stay. With [`KeepRule::Union`] the best `keep` by score and the best `keep` by gradient are kept
/// instead.
pub(super) fn select_mask(
    ranked: &Ranked<'_>,
    keep: usize,
    exchange: usize,
    growth: Growth,
    rule: KeepRule,
    seed: u64,
) -> BlockMask {
    let allowed = |at: &usize| ranked.allowed.is_none_or(|allowed| allowed[*at]);
    let current: Vec<usize> = ranked.current.indices().filter(allowed).collect();
    let scores: Vec<f32> = current.iter().map(|&block| ranked.scores[block]).collect();
    let by_score = |count: usize| keep_top(&scores, count).into_iter().map(|at| current[at]);
    let (shape, block) = (ranked.current.shape(), ranked.current.block());
    let mask = |kept: Vec<usize>| BlockMask::from_indices(shape, block, kept);
    let keep = keep.min(ranked.current.len());

    if let (KeepRule::Union, Some(gradients)) = (rule, ranked.gradients) {
        let mut kept: Vec<usize> = by_score(keep).collect();
        kept.extend(keep_top(gradients, keep));
        return mask(kept);
    }
    let can_grow = match growth {
        Growth::Gradient => ranked.gradients.is_some(),
        Growth::Random => true,
        Growth::None => false,
    };
    if !can_grow {
        return mask(by_score(keep).collect());
    }
    let survivors: Vec<usize> = by_score(keep - exchange.min(keep)).collect();
    let wanted = keep - survivors.len();
    let stays = mask(survivors.clone());
    let rest = (0..stays.len()).filter(|at| !stays.contains(*at) && allowed(at));
    let mut rest: Vec<usize> = rest.collect();
    let wanted = wanted.min(rest.len());
    match ranked.gradients {
        Some(gradients) if growth == Growth::Gradient => {
            let norms: Vec<f32> = rest.iter().map(|&at| gradients[at]).collect();
            rest = keep_top(&norms, wanted).into_iter().map(|at| rest[at]).collect();
        }
        _ => {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rest.partial_shuffle(&mut rng, wanted);
            // The shuffled elements are at the end.
            rest.drain(..rest.len() - wanted);
        }
    }
    mask(survivors.into_iter().chain(rest).collect())
}

/// One seed from the seed of the run, the step and the layer, mixed so that neighbours are unrelated.
pub(super) fn mix(seed: u64, step: usize, layer: usize) -> u64 {
    [step as u64, layer as u64].into_iter().fold(seed, |hash, number| {
        // The finaliser of SplitMix64.
        let mut mixed = hash.wrapping_add(number).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

#[cfg(test)]
mod tests {
    use burn_blast_kernels::{BlockSize, MatrixShape};
    use proptest::prelude::*;

    use super::*;

    fn mask(rows: usize, cols: usize, kept: impl IntoIterator<Item = usize>) -> BlockMask {
        let shape = MatrixShape::new(8 * rows, 8 * cols).unwrap();
        BlockMask::from_indices(shape, BlockSize::new(8).unwrap(), kept)
    }

    #[test]
    fn equal_scores_go_to_the_lower_index() {
        assert_eq!(keep_top(&[1.0, 3.0, 3.0, 2.0, 3.0], 2), [1, 2]);
        assert_eq!(keep_top(&[0.0, -0.0, 0.0], 2), [0, 1]);
    }

    #[test]
    fn a_nan_score_ranks_last() {
        assert_eq!(keep_top(&[f32::NAN, -1.0, f32::NEG_INFINITY], 2), [1, 0]);
    }

    #[test]
    fn the_best_by_score_stay_and_the_best_of_the_rest_come_by_gradient() {
        let current = mask(1, 6, [0, 1, 2, 3]);
        let scores = [4.0, 3.0, 2.0, 1.0, 0.0, 0.0];
        let gradients = [0.0, 0.0, 5.0, 1.0, 9.0, 2.0];
        let ranked = Ranked {
            current: &current,
            scores: &scores,
            gradients: Some(&gradients),
            allowed: None,
        };
        let kept = |keep, exchange| -> Vec<usize> {
            select_mask(&ranked, keep, exchange, Growth::Gradient, KeepRule::Exact, 0)
                .indices()
                .collect()
        };
        assert_eq!(kept(3, 1), [0, 1, 4]);
        // Block 2 leaves by score and comes back by gradient.
        assert_eq!(kept(4, 2), [0, 1, 2, 4]);
        assert_eq!(kept(2, 0), [0, 1]);
        // More than are kept: the difference grows.
        assert_eq!(kept(5, 0), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn the_union_rule_keeps_both_top_sets() {
        let current = mask(1, 6, [0, 1, 2, 3]);
        let scores = [4.0, 3.0, 2.0, 1.0, 0.0, 0.0];
        let gradients = [0.0, 5.0, 0.0, 0.0, 9.0, 2.0];
        let ranked = Ranked {
            current: &current,
            scores: &scores,
            gradients: Some(&gradients),
            allowed: None,
        };
        let kept = select_mask(&ranked, 2, 1, Growth::Gradient, KeepRule::Union, 0);
        assert_eq!(kept.indices().collect::<Vec<_>>(), [0, 1, 4]);
    }

    #[test]
    fn random_growth_follows_the_seed() {
        let current = mask(8, 8, 0..32);
        let scores: Vec<f32> = (0..64).map(|at| at as f32).collect();
        let ranked = Ranked { current: &current, scores: &scores, gradients: None, allowed: None };
        let kept = |seed| select_mask(&ranked, 20, 8, Growth::Random, KeepRule::Exact, seed);
        assert_eq!(kept(1), kept(1));
        assert_ne!(kept(1), kept(2));
        assert_eq!(kept(1).count(), 20);
    }

    proptest! {
        #[test]
        fn the_count_is_exact_and_balances(
            kept in prop::collection::btree_set(0_usize..48, 1..48),
            // Few distinct values, so that ties are the rule.
            scores in prop::collection::vec(0_u8..4, 48),
            gradients in prop::collection::vec(0_u8..4, 48),
            keep in 1_usize..=48,
            exchange in 0_usize..20,
            growth in prop::sample::select(vec![Growth::Gradient, Growth::Random, Growth::None]),
            seed in any::<u64>(),
        ) {
            let current = mask(6, 8, kept.iter().copied());
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let gradients: Vec<f32> = gradients.into_iter().map(f32::from).collect();
            let ranked = Ranked { current: &current, scores: &scores, gradients: Some(&gradients), allowed: None };
            let next = select_mask(&ranked, keep, exchange, growth, KeepRule::Exact, seed);
            let expected = if growth == Growth::None { keep.min(kept.len()) } else { keep };
            prop_assert_eq!(next.count(), expected);

            let survivors = current.intersection(&next).count();
            let dropped = current.difference(&next).count();
            let grown = next.difference(&current).count();
            prop_assert_eq!(survivors + dropped, current.count());
            prop_assert_eq!(survivors + grown, next.count());
            prop_assert!(grown == 0 || growth != Growth::None);
            prop_assert_eq!(current.union(&next).count(), survivors + dropped + grown);
            prop_assert_eq!(&next, &select_mask(&ranked, keep, exchange, growth, KeepRule::Exact, seed));
        }
    }
}
