//! Tuning tables for `Strategy::Auto`: the break-even densities found in records.

use burn_blast::tuning::{BreakEven, TuningTable, TuningTables, VERSION, break_even};

use crate::element::Element;
use crate::record::{Measured, Run, Verb};

/// The tables found in the forward products of some runs. If several runs have the same problem, the last one counts; if
/// a problem was timed with empty and with full caches, the time with empty caches counts, since a layer is not called
/// twice in a row.
pub fn tables(runs: &[Run]) -> TuningTables {
    let mut devices: Vec<(TuningTable, Vec<Curve>)> = Vec::new();
    for Run { machine, results, .. } in runs {
        let table = TuningTable {
            device: machine.device.clone(),
            backend: machine.backend.clone(),
            features: machine.features.clone(),
            entries: Vec::new(),
        };
        let at = devices.iter().position(|(known, _)| *known == table).unwrap_or_else(|| {
            devices.push((table, Vec::new()));
            devices.len() - 1
        });
        // A quantised layer is always sparse.
        let forward = results.iter().filter(|result| {
            result.problem.verb == Verb::Forward && result.problem.dtype != Element::Int8
        });
        forward.for_each(|result| add(&mut devices[at].1, result));
    }
    let devices = devices.into_iter().map(|(device, curves)| {
        let entries = curves.into_iter().map(Curve::entry).collect();
        TuningTable { entries, ..device }
    });
    TuningTables { version: VERSION, devices: devices.collect() }
}

/// Measurements of one size at several densities.
struct Curve {
    entry: BreakEven,
    cold: bool,
    /// Density, and sparse time divided by dense time.
    points: Vec<(f64, f64)>,
}

fn add(curves: &mut Vec<Curve>, result: &Measured) {
    let problem = &result.problem;
    let entry = BreakEven {
        block: problem.block,
        dtype: problem.dtype.to_string(),
        d_input: problem.d_input,
        d_output: problem.d_output,
        rows: problem.rows,
        break_even_density: 0.0,
        at_least: false,
    };
    let cold = problem.cold;
    let at = curves.iter().position(|curve| curve.entry == entry).unwrap_or_else(|| {
        curves.push(Curve { entry, cold, points: Vec::new() });
        curves.len() - 1
    });
    let curve = &mut curves[at];
    if cold && !curve.cold {
        (curve.cold, curve.points) = (true, Vec::new());
    }
    if cold == curve.cold {
        // 1 - 0.9 is not 0.1 in floating point.
        let density = ((1.0 - problem.sparsity) * 1e6).round() / 1e6;
        curve.points.retain(|point| point.0 != density);
        curve.points.push((density, 1.0 / result.speedup.median));
    }
}

impl Curve {
    fn entry(mut self) -> BreakEven {
        self.points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (break_even_density, at_least) = break_even(&self.points);
        BreakEven { break_even_density, at_least, ..self.entry }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    fn run(results: Vec<Measured>) -> Run {
        Run { machine: fixtures::machine(), peaks: Vec::new(), results }
    }

    fn density(results: Vec<Measured>) -> f64 {
        tables(&[run(results)]).devices[0].entries[0].break_even_density
    }

    #[test]
    fn break_even_is_interpolated_between_its_neighbours() {
        // Sparse takes 0.5 and 1.5 of the dense time at 20 and 50 % kept.
        let found = density(vec![fixtures::measured(0.5, 1.0 / 1.5), fixtures::measured(0.8, 2.0)]);
        assert!((found - 0.35).abs() < 1e-6, "{found}");
    }

    #[test]
    fn nothing_is_extrapolated() {
        assert_eq!(density(vec![fixtures::measured(0.9, 3.0), fixtures::measured(0.5, 1.2)]), 0.5);
        assert_eq!(density(vec![fixtures::measured(0.9, 9.0), fixtures::measured(0.0, 1.1)]), 1.0);
        assert_eq!(
            density(vec![fixtures::measured(0.9, 0.9), fixtures::measured(0.95, 0.99)]),
            0.0
        );
        let bounds = |results| tables(&[run(results)]).devices[0].entries[0].at_least;
        assert!(bounds(vec![fixtures::measured(0.9, 3.0)]), "a higher density may win too");
        assert!(!bounds(vec![fixtures::measured(0.0, 1.1)]));
        assert!(!bounds(vec![fixtures::measured(0.9, 2.0), fixtures::measured(0.5, 0.5)]));
    }

    #[test]
    fn the_last_measurement_counts_and_empty_caches_before_full_ones() {
        let cold = |mut result: Measured| {
            result.problem.cold = true;
            result
        };
        assert_eq!(density(vec![fixtures::measured(0.9, 0.5), fixtures::measured(0.9, 2.0)]), 0.1);
        let both = vec![cold(fixtures::measured(0.9, 0.5)), fixtures::measured(0.9, 2.0)];
        assert_eq!(density(both), 0.0);
        let both = vec![fixtures::measured(0.9, 0.5), cold(fixtures::measured(0.9, 2.0))];
        assert_eq!(density(both), 0.1);
    }

    #[test]
    fn devices_and_sizes_are_kept_apart() {
        let mut other = run(vec![fixtures::measured(0.9, 2.0)]);
        other.machine.features.push("x86-v4".to_owned());
        let mut wide = fixtures::measured(0.9, 2.0);
        wide.problem.rows = 1024;
        let first = run(vec![fixtures::measured(0.9, 2.0), wide]);
        let tables = tables(&[first.clone(), other, first]);
        let entries: Vec<usize> = tables.devices.iter().map(|one| one.entries.len()).collect();
        assert_eq!(entries, [2, 1]);
    }
}
