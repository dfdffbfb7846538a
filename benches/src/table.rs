//! Results as a table in the terminal.

use comfy_table::{CellAlignment, Table, presets};

use crate::catalogue::verb_name;
use crate::record::{Clock, Limit, Machine, Measured, Peak, Problem, Spread};

const HEADER: [&str; 15] = [
    "model",
    "verb",
    "rows",
    "weight",
    "block",
    "removed",
    "type",
    "sparse",
    "dense",
    "auto",
    "speed-up (quartiles)",
    "GFLOP/s kept",
    "dense-equiv.",
    "GB/s",
    "of peak",
];

/// Columns of words and not of numbers.
const WORDS: [usize; 3] = [0, 1, 6];

/// Where the run was made, and the limits of the device.
pub fn head(machine: &Machine, peaks: &[Peak]) -> String {
    let Machine { device, driver, backend, simd, threads, commit, features, date, .. } = machine;
    let clock = match machine.clock {
        Clock::Wall => "the host's clock, until the device is done",
        Clock::Device => "the device's own time stamps",
    };
    let facts = [
        device.clone(),
        driver.clone(),
        backend.clone(),
        simd.join(" "),
        format!("{threads} threads"),
        features.join(" "),
        if commit.is_empty() { String::new() } else { format!("commit {commit}") },
        date.clone(),
    ];
    let facts: Vec<String> = facts.into_iter().filter(|fact| !fact.is_empty()).collect();
    let mut text = format!("{}\ntimed by {clock}\n", facts.join(", "));
    for peak in peaks {
        text += &match peak.limit {
            Limit::DenseF32 => format!("best dense f32 product: {} GFLOP/s\n", giga(peak.rate)),
            Limit::Read => format!("reading memory: {} GB/s\n", giga(peak.rate)),
        };
    }
    text
}

/// One row for each problem.
pub fn table(results: &[Measured], peaks: &[Peak]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(HEADER);
    table.add_rows(results.iter().map(|result| row(result, peaks)));
    for (at, column) in table.column_iter_mut().enumerate() {
        if !WORDS.contains(&at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

fn row(result: &Measured, peaks: &[Peak]) -> [String; 15] {
    let Problem { model, verb, rows, d_input, d_output, block, sparsity, dtype, cold } =
        &result.problem;
    let sparse = result.sparse.median;
    let auto = match (&result.auto, &result.auto_path) {
        (Some(auto), Some(path)) => format!("{} ({path})", time(auto.median)),
        _ => String::new(),
    };
    [
        model.clone(),
        verb_name(*verb).to_owned(),
        if *cold { format!("{rows} cold") } else { rows.to_string() },
        format!("{d_input}×{d_output}"),
        block.to_string(),
        format!("{:.0} %", 100.0 * sparsity),
        dtype.clone(),
        time(sparse),
        time(result.dense.median),
        auto,
        speedup(&result.speedup),
        giga(result.kept_flops / sparse),
        giga(result.dense_flops / sparse),
        giga(result.weight_bytes / sparse),
        share(result, peaks),
    ]
}

/// Share of the nearer limit of the device.
fn share(result: &Measured, peaks: &[Peak]) -> String {
    let sparse = result.sparse.median;
    let shares = peaks.iter().map(|peak| match peak.limit {
        Limit::DenseF32 => (result.kept_flops / sparse / peak.rate, "FLOP/s"),
        Limit::Read => (result.weight_bytes / sparse / peak.rate, "bytes/s"),
    });
    let nearest = shares.max_by(|a, b| a.0.total_cmp(&b.0));
    nearest.map_or(String::new(), |(share, of)| format!("{:.0} % {of}", 100.0 * share))
}

/// Median and quartiles of a ratio.
pub fn speedup(spread: &Spread) -> String {
    format!("{:.2} ({:.2} to {:.2})", spread.median, spread.low, spread.high)
}

/// Seconds with a fitting unit.
pub fn time(seconds: f64) -> String {
    let (number, unit) = match seconds {
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    format!("{number:.*} {unit}", if number < 10.0 { 2 } else { 1 })
}

fn giga(rate: f64) -> String {
    let number = rate / 1e9;
    format!("{number:.*}", if number < 10.0 { 1 } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn a_row_says_how_fast_and_against_what() {
        let peaks =
            [Peak { limit: Limit::DenseF32, rate: 1e11 }, Peak { limit: Limit::Read, rate: 1e10 }];
        let text = table(&[sample::measured(0.9, 4.0)], &peaks);
        for part in
            ["2048×8192", "90 %", "20.0 ms", "80.0 ms", "4.00 (3.60 to 4.40)", "43 % FLOP/s"]
        {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
    }

    #[test]
    fn the_head_names_machine_clock_and_limits() {
        let text = head(&sample::machine(), &[Peak { limit: Limit::Read, rate: 9.5e9 }]);
        for part in ["Abacus 9000, flex, avx2, 2 threads, commit", "host's clock", "9.5 GB/s"] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
    }

    #[test]
    fn times_have_a_fitting_unit() {
        assert_eq!(time(2.5e-6), "2.50 µs");
        assert_eq!(time(0.0123), "12.3 ms");
        assert_eq!(time(3.0), "3.00 s");
    }
}
