//! Made-up lines for the tests.

use crate::record::{Clock, Machine, Measured, Problem, Spread, VERSION, Verb};

/// A machine.
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

/// A forward product of 256 rows that is `speedup` times as fast as the dense one.
pub fn measured(sparsity: f64, speedup: f64) -> Measured {
    // Few digits, which JSON keeps exactly.
    let short = |number: f64| (number * 1e6).round() / 1e6;
    let spread = |median: f64| Spread {
        low: short(0.9 * median),
        median: short(median),
        high: short(1.1 * median),
    };
    Measured {
        problem: Problem {
            model: "llama-3.2-1b mlp.up".to_owned(),
            verb: Verb::Forward,
            rows: 256,
            d_input: 2048,
            d_output: 8192,
            block: 64,
            sparsity,
            dtype: "f32".to_owned(),
            cold: false,
        },
        rounds: 5,
        sparse: spread(0.08 / speedup),
        dense: spread(0.08),
        auto: None,
        auto_path: None,
        speedup: spread(speedup),
        kept_flops: (8.6e9 * (1.0 - sparsity)).round(),
        dense_flops: 8.6e9,
        weight_bytes: (6.7e7 * (1.0 - sparsity)).round(),
        error: 0.25,
    }
}
