//! Scales: from a value to a position on the page, and ticks.

/// Linear or logarithmic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Equal steps for equal differences.
    Linear,
    /// Equal steps for equal ratios.
    Log,
}

/// A map from `domain` to `range`.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    kind: Kind,
    domain: (f64, f64),
    range: (f64, f64),
}

impl Scale {
    /// Maps `domain.0` to `range.0` and `domain.1` to `range.1`. An empty or unusable domain is widened.
    pub fn new(kind: Kind, domain: (f64, f64), range: (f64, f64)) -> Self {
        let usable = |v: f64| v.is_finite() && (kind == Kind::Linear || v > 0.0);
        let (low, high) = match (usable(domain.0), usable(domain.1)) {
            (true, true) if domain.0 < domain.1 => domain,
            (true, true) if kind == Kind::Log => (domain.0 / 1.5, domain.0 * 1.5),
            (true, true) => (domain.0 - 1.0, domain.0 + 1.0),
            _ => (1.0, 2.0),
        };
        Self { kind, domain: (low, high), range }
    }

    /// Covers all usable `values` with a margin on both sides.
    pub fn fit(kind: Kind, values: impl IntoIterator<Item = f64>, range: (f64, f64)) -> Self {
        let usable = |v: &f64| v.is_finite() && (kind == Kind::Linear || *v > 0.0);
        let (low, high) = values
            .into_iter()
            .filter(usable)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let padded = match kind {
            Kind::Log => (low / (high / low).powf(0.06), high * (high / low).powf(0.06)),
            Kind::Linear => (low, high + 0.06 * (high - low)),
        };
        Self::new(kind, padded, range)
    }

    /// Lowest and highest value on the axis.
    pub fn domain(&self) -> (f64, f64) {
        self.domain
    }

    /// The ends on the page, in the order of [`Scale::domain`].
    pub fn range(&self) -> (f64, f64) {
        self.range
    }

    /// Position of a value; `None` if it has no position on this axis, so that no `NaN` reaches a drawing.
    pub fn at(&self, value: f64) -> Option<f64> {
        let position = |v: f64| if self.kind == Kind::Log { v.ln() } else { v };
        let (low, high) = (position(self.domain.0), position(self.domain.1));
        let place =
            self.range.0 + (position(value) - low) / (high - low) * (self.range.1 - self.range.0);
        place.is_finite().then_some(place)
    }

    /// Position of a value, moved to the nearer end if it is outside.
    pub fn clamped(&self, value: f64) -> Option<f64> {
        let (low, high) = (self.range.0.min(self.range.1), self.range.0.max(self.range.1));
        self.at(value).map(|place| place.clamp(low, high))
    }

    /// Round values at least `gap` apart on the page.
    pub fn ticks(&self, gap: f64) -> Vec<f64> {
        match self.kind {
            Kind::Linear => self.linear_ticks(gap),
            Kind::Log => self.log_ticks(gap),
        }
    }

    /// [`ticks`](Self::ticks) with their labels.
    pub fn labels(&self, gap: f64, label: fn(f64) -> String) -> Vec<(f64, String)> {
        self.ticks(gap).into_iter().map(|value| (value, label(value))).collect()
    }

    fn linear_ticks(&self, gap: f64) -> Vec<f64> {
        let (low, high) = self.domain;
        let least = (high - low) * gap / (self.range.1 - self.range.0).abs();
        let decade = 10f64.powf(least.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .iter()
            .map(|m| m * decade)
            .find(|s| *s >= least)
            .unwrap_or(10.0 * decade);
        let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
        (first..=last).map(|k| k as f64 * step).collect()
    }

    fn log_ticks(&self, gap: f64) -> Vec<f64> {
        let (low, high) = self.domain;
        // Below a factor of three, linear ticks are almost evenly spaced, and their values are rounder.
        if high / low < 3.0 {
            return self.linear_ticks(gap);
        }
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let pixels_per_decade = (self.range.1 - self.range.0).abs() / (high / low).log10();
        // The smallest ratio between neighbours decides whether a set of ticks fits.
        let sets: [(&[f64], f64); 4] = [
            (&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0], 1.2),
            (&[1.0, 2.0, 3.0, 5.0], 1.5),
            (&[1.0, 2.0, 5.0], 2.0),
            (&[1.0, 3.0], 3.0),
        ];
        let fits = |ratio: f64| pixels_per_decade * ratio.log10() >= gap;
        let inside = |v: &f64| (low..=high).contains(v);
        if let Some((set, _)) = sets.iter().find(|(_, ratio)| fits(*ratio)) {
            return (first..=last)
                .flat_map(|e| set.iter().map(move |m| m * 10f64.powi(e)))
                .filter(inside)
                .collect();
        }
        let stride = (gap / pixels_per_decade).ceil().max(1.0) as i32;
        (first..=last).filter(|e| e % stride == 0).map(|e| 10f64.powi(e)).filter(inside).collect()
    }
}

/// Moves labels apart until neighbours have a distance of `gap`, inside `low..=high` if they fit, keeping their order.
pub fn spread(wanted: &[f64], gap: f64, low: f64, high: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    let mut placed = wanted.to_vec();
    let mut floor = low;
    for &i in &order {
        placed[i] = placed[i].max(floor);
        floor = placed[i] + gap;
    }
    let mut ceiling = high;
    for &i in order.iter().rev() {
        placed[i] = placed[i].min(ceiling);
        ceiling = placed[i] - gap;
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_scale_puts_the_geometric_mean_in_the_middle() {
        let scale = Scale::new(Kind::Log, (1.0, 100.0), (0.0, 200.0));
        assert!((scale.at(10.0).unwrap() - 100.0).abs() < 1e-9);
    }

    #[test]
    fn a_value_without_a_position_gives_none() {
        let scale = Scale::new(Kind::Log, (1.0, 100.0), (0.0, 200.0));
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(scale.at(value), None, "{value}");
        }
    }

    #[test]
    fn an_unusable_domain_still_gives_a_scale() {
        for kind in [Kind::Linear, Kind::Log] {
            for values in [vec![], vec![f64::NAN], vec![3.0], vec![0.0]] {
                let scale = Scale::fit(kind, values.clone(), (0.0, 100.0));
                assert!(scale.at(2.0).is_some(), "{kind:?} {values:?}");
                assert!(!scale.ticks(30.0).is_empty(), "{kind:?} {values:?}");
            }
        }
    }

    #[test]
    fn ticks_are_round_and_keep_their_distance() {
        let scale = Scale::new(Kind::Log, (0.4, 30.0), (0.0, 200.0));
        assert_eq!(scale.ticks(25.0), [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]);
        let scale = Scale::new(Kind::Linear, (0.0, 95.0), (0.0, 200.0));
        assert_eq!(scale.ticks(40.0), [0.0, 20.0, 40.0, 60.0, 80.0]);
    }

    #[test]
    fn labels_move_apart_and_stay_inside() {
        let placed = spread(&[50.0, 51.0, 99.0, 98.0], 10.0, 0.0, 100.0);
        assert_eq!(placed, [50.0, 60.0, 100.0, 90.0]);
    }
}
