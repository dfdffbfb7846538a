//! Records for the tests.

use crate::element::Element;
use crate::record::{Clock, Machine, Measured, Problem, Quartiles, VERSION, Verb};

pub fn machine() -> Machine {
    Machine {
        version: VERSION,
        device: "Abacus 9000".to_owned(),
        driver: String::new(),
        backend: "flex".to_owned(),
        simd: vec!["avx2".to_owned()],
        threads: 2,
        commit: "0123456789ab".to_owned(),
        features: Vec::new(),
        date: "2026-01-02".to_owned(),
        command: "blast-bench run".to_owned(),
        clock: Clock::Wall,
    }
}

/// A forward product of 256 rows in blocks of 64 that is `speedup` times as fast as the dense one.
pub fn measured(sparsity: f64, speedup: f64) -> Measured {
    measured_at(256, 64, sparsity, speedup)
}

/// A forward product that is `speedup` times as fast as the dense one.
pub fn measured_at(rows: usize, block: usize, sparsity: f64, speedup: f64) -> Measured {
    let dense_flops = 2.0 * rows as f64 * 2048.0 * 8192.0;
    Measured {
        problem: Problem {
            model: "llama-3.2-1b mlp.up".to_owned(),
            verb: Verb::Forward,
            rows,
            d_input: 2048,
            d_output: 8192,
            block,
            sparsity,
            dtype: Element::F32,
            cold: false,
        },
        rounds: 5,
        sparse: quartiles(0.08 / speedup),
        dense: quartiles(0.08),
        auto: None,
        auto_path: None,
        speedup: quartiles(speedup),
        kept_flops: (dense_flops * (1.0 - sparsity)).round(),
        dense_flops,
        weight_bytes: (6.7e7 * (1.0 - sparsity)).round(),
        error: 0.25,
    }
}

/// Quartiles with few digits, which JSON represents exactly.
pub fn quartiles(median: f64) -> Quartiles {
    let round = |value: f64| (value * 1e6).round() / 1e6;
    Quartiles { low: round(0.9 * median), median: round(median), high: round(1.1 * median) }
}
