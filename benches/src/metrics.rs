//! Values derived from a record: rates, groups, break-even.

use burn_blast::tuning;

use crate::record::{Limit, Measured, Peak};

/// `Auto` counts as slower than the faster path when its time divided by that time is above this. Two medians of one
/// machine differ by a few percent without a cause.
pub const AUTO_SLACK: f64 = 1.03;

/// The value, if it is finite and above zero.
pub fn positive(value: f64) -> Option<f64> {
    (value.is_finite() && value > 0.0).then_some(value)
}

fn ratio(value: f64, by: f64) -> Option<f64> {
    positive(by).and_then(|by| positive(value / by))
}

/// Dense time divided by sparse time, if both were timed.
pub fn speedup(result: &Measured) -> Option<f64> {
    positive(result.sparse.median)?;
    positive(result.dense.median)?;
    positive(result.speedup.median)
}

/// Time of `Auto` divided by the time of the faster path.
pub fn auto_over_faster(result: &Measured) -> Option<f64> {
    let (sparse, dense) = (positive(result.sparse.median)?, positive(result.dense.median)?);
    positive(result.auto?.median).map(|auto| auto / sparse.min(dense))
}

/// FLOP/s on kept blocks.
pub fn kept_rate(result: &Measured) -> Option<f64> {
    ratio(result.kept_flops, result.sparse.median)
}

/// Bytes of weight per second.
pub fn bandwidth(result: &Measured) -> Option<f64> {
    ratio(result.weight_bytes, result.sparse.median)
}

/// FLOPs per byte of weight.
pub fn intensity(result: &Measured) -> Option<f64> {
    ratio(result.kept_flops, result.weight_bytes)
}

/// Dense FLOPs divided by kept FLOPs: the x axis of a speed-up plot.
pub fn compression(sparsity: f64) -> Option<f64> {
    ratio(1.0, 1.0 - sparsity)
}

/// A limit measured in the same run.
pub fn peak(peaks: &[Peak], limit: Limit) -> Option<f64> {
    peaks.iter().find(|peak| peak.limit == limit).and_then(|peak| positive(peak.rate))
}

/// Groups in order of first appearance.
pub fn group<T, K: PartialEq>(
    items: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> K,
) -> Vec<(K, Vec<T>)> {
    let mut groups: Vec<(K, Vec<T>)> = Vec::new();
    for item in items {
        let key = key(&item);
        match groups.iter_mut().find(|group| group.0 == key) {
            Some((_, group)) => group.push(item),
            None => groups.push((key, vec![item])),
        }
    }
    groups
}

/// Where a curve of speed-up against sparsity breaks even.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Crossover {
    /// Sparse is faster at every measured sparsity, from this lowest one on.
    Always(f64),
    /// Sparse is as fast at this sparsity.
    At(f64),
    /// Sparse is slower up to this sparsity, the highest one measured.
    Never(f64),
}

/// Where a curve breaks even, by the same rule as [`tuning::break_even`]; `None` for an empty curve.
///
/// `curve` holds sparsity and speed-up in rising order of sparsity.
pub fn break_even(curve: &[(f64, f64)]) -> Option<Crossover> {
    let (first, last) = (curve.first()?, curve.last()?);
    let points: Vec<_> =
        curve.iter().rev().map(|(sparsity, ratio)| (1.0 - sparsity, 1.0 / ratio)).collect();
    Some(match tuning::break_even(&points) {
        (0.0, _) => Crossover::Never(last.0),
        (density, _) if density >= 1.0 - first.0 => Crossover::Always(first.0),
        (density, _) => Crossover::At(1.0 - density),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn break_even_is_where_the_times_are_equal() {
        // Sparse takes 1.5 and 0.5 of the dense time at densities 0.5 and 0.2.
        let Some(Crossover::At(found)) = break_even(&[(0.5, 1.0 / 1.5), (0.8, 2.0)]) else {
            panic!("no break-even")
        };
        assert!((found - 0.65).abs() < 1e-12, "{found}");
    }

    #[test]
    fn break_even_is_at_the_highest_density_that_wins() {
        let noisy = [(0.5, 0.9), (0.6, 1.1), (0.7, 0.95), (0.8, 1.4)];
        let Some(Crossover::At(found)) = break_even(&noisy) else { panic!("no break-even") };
        assert!((0.5..0.6).contains(&found), "{found}");
        assert_eq!(break_even(&noisy[..1]), Some(Crossover::Never(0.5)));
        assert_eq!(break_even(&noisy[1..]), Some(Crossover::Always(0.6)));
        assert_eq!(break_even(&[]), None);
    }

    #[test]
    fn groups_keep_the_order_of_the_file() {
        let groups = group([3, 1, 5, 2, 4], |n| n % 2);
        assert_eq!(groups, [(1, vec![3, 1, 5]), (0, vec![2, 4])]);
    }
}
