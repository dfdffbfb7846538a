//! Machines and results as tables, in the terminal and on the page.

use comfy_table::{CellAlignment, Table, presets};

use crate::format::{self, NOTHING};
use crate::metrics::{bandwidth, kept_rate, peak, positive};
use crate::record::{Clock, Limit, Machine, Measured, Peak, Quartiles};

/// Name and text of a property of a machine; the text is empty if the machine has none.
type Fact = (&'static str, fn(&Machine, &[Peak]) -> String);

/// The properties of a machine.
pub const FACTS: [Fact; 12] = [
    ("device", |machine, _| machine.device.clone()),
    ("backend", |machine, _| machine.backend.clone()),
    ("driver", |machine, _| machine.driver.clone()),
    ("SIMD", |machine, _| machine.simd.join(", ")),
    ("threads", |machine, _| machine.threads.to_string()),
    ("features", |machine, _| machine.features.join(", ")),
    ("best dense f32", |_, peaks| rate(peaks, Limit::DenseF32, "FLOP/s")),
    ("reading memory", |_, peaks| rate(peaks, Limit::Read, "B/s")),
    ("clock", |machine, _| match machine.clock {
        Clock::Wall => "the host's clock".to_owned(),
        Clock::Device => "the device's own time stamps".to_owned(),
    }),
    ("commit", |machine, _| machine.commit.clone()),
    ("date", |machine, _| machine.date.clone()),
    ("command", |machine, _| machine.command.clone()),
];

/// Heading and cell of a result, beside the limits of its device.
type Column = (&'static str, fn(&Measured, &[Peak]) -> String);

/// The columns of a table of results; all but the first hold numbers.
pub const COLUMNS: [Column; 12] = [
    ("problem", |result, _| format::id(&result.problem)),
    ("rounds", |result, _| result.rounds.to_string()),
    ("sparse (quartiles)", |result, _| time(&result.sparse)),
    ("dense (quartiles)", |result, _| time(&result.dense)),
    ("Auto (quartiles)", |result, _| result.auto.as_ref().map_or(NOTHING.into(), time)),
    ("path", |result, _| result.auto_path.clone().unwrap_or_else(|| NOTHING.into())),
    ("speed-up (quartiles)", |result, _| format::ratio_quartiles(&result.speedup)),
    ("GFLOP/s on kept blocks", |result, _| giga(kept_rate(result))),
    ("GB/s of weight", |result, _| giga(bandwidth(result))),
    ("of dense f32 peak", |result, peaks| fraction(kept_rate(result), peaks, Limit::DenseF32)),
    ("of read peak", |result, peaks| fraction(bandwidth(result), peaks, Limit::Read)),
    ("error over bound", |result, _| format::figures(result.error)),
];

/// The cells of a result.
pub fn row(result: &Measured, peaks: &[Peak]) -> Vec<String> {
    COLUMNS.iter().map(|(_, cell)| cell(result, peaks)).collect()
}

/// Machine, clock and limits of the device, for the terminal.
pub fn header(machine: &Machine, peaks: &[Peak]) -> String {
    let facts = FACTS.iter().map(|(name, fact)| (name, fact(machine, peaks)));
    let known = facts.filter(|(_, text)| !text.is_empty());
    known.map(|(name, text)| format!("{name}: {text}\n")).collect()
}

/// One row per problem, for the terminal.
pub fn table(results: &[Measured], peaks: &[Peak]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(COLUMNS.map(|(name, _)| name));
    table.add_rows(results.iter().map(|result| row(result, peaks)));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

fn rate(peaks: &[Peak], limit: Limit, unit: &str) -> String {
    peak(peaks, limit).map_or("not measured".into(), |value| format::rate(value, unit))
}

fn time(spread: &Quartiles) -> String {
    positive(spread.median).map_or(NOTHING.into(), |_| format::seconds_quartiles(spread))
}

fn giga(rate: Option<f64>) -> String {
    rate.map_or(NOTHING.into(), |rate| format::figures(rate / 1e9))
}

fn fraction(rate: Option<f64>, peaks: &[Peak], limit: Limit) -> String {
    let fraction = rate.zip(peak(peaks, limit)).map(|(rate, peak)| rate / peak);
    fraction.map_or(NOTHING.into(), format::percent)
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
        for part in ["2048 × 8192", "90 %", "20.0 ms", "80.0 ms", "4.00× (3.60–4.40)", "42.9 %"]
        {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
    }

    #[test]
    fn the_header_names_machine_clock_and_limits() {
        let text = header(&fixtures::machine(), &[Peak { limit: Limit::Read, rate: 9.5e9 }]);
        for part in
            ["Abacus 9000", "flex", "avx2", "threads: 2", "commit: 0", "host's clock", "9.50 GB/s"]
        {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
    }
}
