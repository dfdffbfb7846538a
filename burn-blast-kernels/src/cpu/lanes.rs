//! Sums and maxima over a row whose parts are kept apart, so that a loop over it has no chain of operations.

/// Parts of a row.
pub(super) const LANES: usize = 16;

/// One sum for each lane.
#[derive(Default)]
pub(super) struct Lanes(pub(super) [f32; LANES]);

impl Lanes {
    /// All of them, in f64.
    pub(super) fn sum(&self) -> f64 {
        self.0.iter().copied().map(f64::from).sum()
    }
}

/// The largest number of a row.
#[inline(always)]
pub(super) fn largest(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for part in row.chunks(LANES) {
        for (lane, score) in lanes.iter_mut().zip(part) {
            *lane = if *score > *lane { *score } else { *lane };
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}
