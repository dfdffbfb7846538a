//! From rankings to a mask of the exact count.

use burn_blast_kernels::BlockMask;
use burn_blast_kernels::budget::keep_top;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{Growth, KeepRule};

/// What a selection is made from.
#[derive(Debug, Clone)]
pub struct Ranked<'a> {
    /// Blocks kept so far.
    pub current: &'a BlockMask,
    /// Score of each block number; only those of kept blocks are read.
    pub scores: &'a [f32],
    /// Gradient norm of each block number, if known.
    pub gradients: Option<&'a [f32]>,
}

/// Chooses exactly `keep` blocks (fewer only when nothing may grow and fewer are kept already).
///
/// `exchange` of them come from outside the best by score: by gradient or by chance, among all blocks not
/// kept for their score. With [`KeepRule::Union`] the top `keep` by gradient are added instead.
pub fn grow(
    ranked: &Ranked<'_>,
    keep: usize,
    exchange: usize,
    growth: Growth,
    rule: KeepRule,
    seed: u64,
) -> BlockMask {
    let current: Vec<usize> = ranked.current.indices().collect();
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
    let mut rest: Vec<usize> = (0..stays.len()).filter(|&at| !stays.contains(at)).collect();
    match ranked.gradients {
        Some(gradients) if growth == Growth::Gradient => {
            let norms: Vec<f32> = rest.iter().map(|&at| gradients[at]).collect();
            rest = keep_top(&norms, wanted).into_iter().map(|at| rest[at]).collect();
        }
        _ => {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rest.partial_shuffle(&mut rng, wanted);
            // The chosen elements are put at the end.
            rest.drain(..rest.len() - wanted);
        }
    }
    mask(survivors.into_iter().chain(rest).collect())
}

/// One seed from the run's seed, the step and the layer, each mixed so that neighbours are unrelated.
pub(crate) fn mix(seed: u64, step: usize, layer: usize) -> u64 {
    [step as u64, layer as u64].into_iter().fold(seed, |hash, number| {
        // The finaliser of SplitMix64.
        let mut mixed = hash.wrapping_add(number).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}
