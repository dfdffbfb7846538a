//! Tuning tables for `Strategy::Auto`: the break-even densities found in records.

use burn_blast::tuning::{BreakEven, TuningTable, TuningTables, break_even};

use crate::element::Element;
use crate::metrics::group;
use crate::record::{Measured, Problem, Run, Verb};

/// The tables found in the forward products of some runs. If several runs have the same problem, the last one counts; if
/// a problem was timed with empty and with full caches, the time with empty caches counts, since a layer is not called
/// twice in a row.
pub fn tables(runs: &[Run]) -> TuningTables {
    let devices = group(runs, |Run { machine, .. }| {
        (machine.device.clone(), machine.backend.clone(), machine.features.clone())
    });
    let table = |((device, backend, features), runs): (_, Vec<&Run>)| {
        // A quantised layer is always sparse.
        let forward = runs.iter().flat_map(|run| &run.results).filter(|result| {
            result.problem.verb == Verb::Forward && result.problem.dtype != Element::Int8
        });
        let sizes = group(forward, |Measured { problem, .. }| {
            (problem.block, problem.dtype, problem.d_input, problem.d_output, problem.rows)
        });
        let entries = sizes.iter().map(|(_, results)| entry(results)).collect();
        TuningTable { device, backend, features, entries }
    };
    TuningTables::new(devices.into_iter().map(table).collect())
}

/// The break-even of one size, measured at several densities.
fn entry(results: &[&Measured]) -> BreakEven {
    let cold = results.iter().any(|result| result.problem.cold);
    let mut points: Vec<(f64, f64)> = Vec::new();
    for result in results.iter().filter(|result| result.problem.cold == cold) {
        // 1 - 0.9 is not 0.1 in floating point.
        let density = ((1.0 - result.problem.sparsity) * 1e6).round() / 1e6;
        points.retain(|point| point.0 != density);
        points.push((density, 1.0 / result.speedup.median));
    }
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (break_even_density, at_least) = break_even(&points);
    let Problem { block, dtype, d_input, d_output, rows, .. } = results[0].problem;
    let dtype = dtype.to_string();
    BreakEven { block, dtype, d_input, d_output, rows, break_even_density, at_least }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{machine, measured};

    fn run(results: Vec<Measured>) -> Run {
        Run { machine: machine(), peaks: Vec::new(), results }
    }

    fn density(results: Vec<Measured>) -> f64 {
        tables(&[run(results)]).devices[0].entries[0].break_even_density
    }

    #[test]
    fn nothing_is_extrapolated() {
        assert_eq!(density(vec![measured(0.9, 3.0), measured(0.5, 1.2)]), 0.5);
        assert_eq!(density(vec![measured(0.9, 9.0), measured(0.0, 1.1)]), 1.0);
        assert_eq!(density(vec![measured(0.9, 0.9), measured(0.95, 0.99)]), 0.0);
        let bounds = |results| tables(&[run(results)]).devices[0].entries[0].at_least;
        assert!(bounds(vec![measured(0.9, 3.0)]), "a higher density may win too");
        assert!(!bounds(vec![measured(0.0, 1.1)]));
        assert!(!bounds(vec![measured(0.9, 2.0), measured(0.5, 0.5)]));
    }

    #[test]
    fn the_last_measurement_counts_and_empty_caches_before_full_ones() {
        let cold = |mut result: Measured| {
            result.problem.cold = true;
            result
        };
        assert_eq!(density(vec![measured(0.9, 0.5), measured(0.9, 2.0)]), 0.1);
        let both = vec![cold(measured(0.9, 0.5)), measured(0.9, 2.0)];
        assert_eq!(density(both), 0.0);
        let both = vec![measured(0.9, 0.5), cold(measured(0.9, 2.0))];
        assert_eq!(density(both), 0.1);
    }

    #[test]
    fn devices_and_sizes_are_kept_apart() {
        let mut other = run(vec![measured(0.9, 2.0)]);
        other.machine.features.push("x86-v4".to_owned());
        let mut wide = measured(0.9, 2.0);
        wide.problem.rows = 1024;
        let first = run(vec![measured(0.9, 2.0), wide]);
        let tables = tables(&[first.clone(), other, first]);
        let entries: Vec<usize> = tables.devices.iter().map(|one| one.entries.len()).collect();
        assert_eq!(entries, [2, 1]);
    }
}
