//! What follows from the numbers of a file: rates, groups, break-even.

use std::collections::HashMap;
use std::hash::Hash;

use super::Run;
use crate::record::{Limit, Measured};

/// `Auto` counts as losing when it takes this much more than dense. Two medians of one machine differ by a few
/// percent without a cause.
pub const AUTO_SLACK: f64 = 1.03;

/// The value, if it can be divided by and drawn.
pub fn positive(value: f64) -> Option<f64> {
    (value.is_finite() && value > 0.0).then_some(value)
}

/// Dense over sparse, if both were timed.
pub fn speedup(result: &Measured) -> Option<f64> {
    positive(result.sparse.median)?;
    positive(result.dense.median)?;
    positive(result.speedup.median)
}

/// Seconds of `Auto` over seconds of dense.
pub fn auto_over_dense(result: &Measured) -> Option<f64> {
    let auto = positive(result.auto?.median)?;
    positive(result.dense.median).map(|dense| auto / dense)
}

/// FLOP/s on kept work.
pub fn kept_rate(result: &Measured) -> Option<f64> {
    positive(result.sparse.median).and_then(|time| positive(result.kept_flops / time))
}

/// FLOP/s as if the sparse call had done the dense work.
pub fn equivalent_rate(result: &Measured) -> Option<f64> {
    positive(result.sparse.median).and_then(|time| positive(result.dense_flops / time))
}

/// Bytes/s of weight.
pub fn bandwidth(result: &Measured) -> Option<f64> {
    positive(result.sparse.median).and_then(|time| positive(result.weight_bytes / time))
}

/// FLOP per byte of weight.
pub fn intensity(result: &Measured) -> Option<f64> {
    positive(result.weight_bytes).and_then(|bytes| positive(result.kept_flops / bytes))
}

/// Dense work over kept work of a weight: the x axis of a speed-up plot, straight on a log scale.
pub fn compression(sparsity: f64) -> Option<f64> {
    positive(1.0 - sparsity).map(|density| 1.0 / density)
}

/// A limit measured in the same run.
pub fn peak(run: &Run, limit: Limit) -> Option<f64> {
    run.peaks.iter().find(|peak| peak.limit == limit).and_then(|peak| positive(peak.rate))
}

/// Groups in order of first appearance.
pub fn group<T, K: Eq + Hash + Clone>(
    items: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> K,
) -> Vec<(K, Vec<T>)> {
    let mut place = HashMap::new();
    let mut groups: Vec<(K, Vec<T>)> = Vec::new();
    for item in items {
        let key = key(&item);
        let index = *place.entry(key.clone()).or_insert(groups.len());
        if index == groups.len() {
            groups.push((key, Vec::new()));
        }
        groups[index].1.push(item);
    }
    groups
}

/// From which sparsity on a curve stays ahead of dense.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BreakEven {
    /// Ahead at every measured sparsity; the lowest is named.
    Always(f64),
    /// Ahead from here on.
    From(f64),
    /// Behind at the highest sparsity measured, which is named.
    Never(f64),
}

/// Sparsities at which the curve passes ratio 1, up or down, between neighbours of `curve`.
///
/// `curve` holds sparsity and ratio in rising order of sparsity. Between two points the ratio follows the straight
/// line that the plot draws: linear in the logarithms of ratio and of [`compression`].
pub fn crossings(curve: &[(f64, f64)]) -> Vec<f64> {
    let between = |pair: &[(f64, f64)]| {
        let ((s0, r0), (s1, r1)) = (pair[0], pair[1]);
        if (r0 < 1.0) == (r1 < 1.0) {
            return None;
        }
        let share = r0.ln() / (r0.ln() - r1.ln());
        let (from, to) = (compression(s0)?.ln(), compression(s1)?.ln());
        Some(1.0 - (-(from + share * (to - from))).exp())
    };
    curve.windows(2).filter_map(between).collect()
}

/// Where a curve pays, see [`crossings`]; none for an empty one.
pub fn break_even(curve: &[(f64, f64)]) -> Option<BreakEven> {
    let (first, last) = (curve.first()?, curve.last()?);
    Some(match crossings(curve).last() {
        _ if last.1 < 1.0 => BreakEven::Never(last.0),
        Some(sparsity) => BreakEven::From(*sparsity),
        None => BreakEven::Always(first.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn break_even_lies_on_the_line_that_is_drawn() {
        // Ratio 0.5 at density 1/2 and 2 at density 1/8: the middle of the logarithms is density 1/4.
        let Some(BreakEven::From(found)) = break_even(&[(0.5, 0.5), (0.875, 2.0)]) else {
            panic!("no crossing")
        };
        assert!((found - 0.75).abs() < 1e-12, "{found}");
    }

    #[test]
    fn break_even_is_the_last_crossing_and_only_if_the_end_wins() {
        let noisy = [(0.5, 0.9), (0.6, 1.1), (0.7, 0.95), (0.8, 1.4)];
        assert_eq!(crossings(&noisy).len(), 3);
        let Some(BreakEven::From(found)) = break_even(&noisy) else { panic!("no crossing") };
        assert!((0.7..0.8).contains(&found), "{found}");
        assert_eq!(break_even(&noisy[..3]), Some(BreakEven::Never(0.7)));
        assert_eq!(break_even(&noisy[1..2]), Some(BreakEven::Always(0.6)));
        assert_eq!(break_even(&[]), None);
    }

    #[test]
    fn groups_keep_the_order_of_the_file() {
        let groups = group([3, 1, 5, 2, 4], |n| n % 2);
        assert_eq!(groups, [(1, vec![3, 1, 5]), (0, vec![2, 4])]);
    }
}
