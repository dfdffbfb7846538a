//! Results as a table in the terminal.

use comfy_table::{CellAlignment, Table, presets};

use crate::catalogue::verb_name;
use crate::format::{percent, rate, ratio_quartiles, seconds};
use crate::record::{Clock, Limit, Machine, Measured, Peak, Problem};

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
    "kept",
    "dense-equivalent",
    "weight",
    "of peak",
];

/// Columns of text; the others hold numbers.
const TEXT: [usize; 3] = [0, 1, 6];

/// Machine, clock and limits of the device.
pub fn header(machine: &Machine, peaks: &[Peak]) -> String {
    let Machine { device, driver, backend, simd, threads, commit, features, date, .. } = machine;
    let clock = match machine.clock {
        Clock::Wall => "the host's clock",
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
            Limit::DenseF32 => {
                format!("fastest dense f32 product: {}\n", rate(peak.rate, "FLOP/s"))
            }
            Limit::Read => format!("reading memory: {}\n", rate(peak.rate, "B/s")),
        };
    }
    text
}

/// One row per problem.
pub fn table(results: &[Measured], peaks: &[Peak]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(HEADER);
    table.add_rows(results.iter().map(|result| row(result, peaks)));
    for (at, column) in table.column_iter_mut().enumerate() {
        if !TEXT.contains(&at) {
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
        (Some(auto), Some(path)) => format!("{} ({path})", seconds(auto.median)),
        _ => String::new(),
    };
    [
        model.clone(),
        verb_name(*verb),
        if *cold { format!("{rows} cold") } else { rows.to_string() },
        format!("{d_input}×{d_output}"),
        block.to_string(),
        percent(*sparsity),
        dtype.to_string(),
        seconds(sparse),
        seconds(result.dense.median),
        auto,
        ratio_quartiles(&result.speedup),
        rate(result.kept_flops / sparse, "FLOP/s"),
        rate(result.dense_flops / sparse, "FLOP/s"),
        rate(result.weight_bytes / sparse, "B/s"),
        of_peak(result, peaks),
    ]
}

/// Fraction of the nearer limit of the device.
fn of_peak(result: &Measured, peaks: &[Peak]) -> String {
    let sparse = result.sparse.median;
    let fractions = peaks.iter().map(|peak| match peak.limit {
        Limit::DenseF32 => (result.kept_flops / sparse / peak.rate, "FLOP/s"),
        Limit::Read => (result.weight_bytes / sparse / peak.rate, "B/s"),
    });
    let nearest = fractions.max_by(|a, b| a.0.total_cmp(&b.0));
    nearest.map_or(String::new(), |(fraction, unit)| format!("{} of {unit}", percent(fraction)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn a_row_has_times_ratio_and_fraction_of_peak() {
        let peaks =
            [Peak { limit: Limit::DenseF32, rate: 1e11 }, Peak { limit: Limit::Read, rate: 1e10 }];
        let text = table(&[fixtures::measured(0.9, 4.0)], &peaks);
        for part in
            ["2048×8192", "90 %", "20.0 ms", "80.0 ms", "4.00× (3.60–4.40)", "42.9 % of FLOP/s"]
        {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
    }

    #[test]
    fn the_header_names_machine_clock_and_limits() {
        let text = header(&fixtures::machine(), &[Peak { limit: Limit::Read, rate: 9.5e9 }]);
        for part in ["Abacus 9000, flex, avx2, 2 threads, commit", "host's clock", "9.50 GB/s"] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
    }
}
