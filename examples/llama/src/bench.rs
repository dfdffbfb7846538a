//! Tokens a second, of a prompt as a whole and of one token after the other.

use std::time::Instant;

use anyhow::{Result, ensure};
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use llama::{Checkpoint, Linear, Model, next_scores};

use crate::cli::BenchArgs;

/// Rounds that do not count, in which caches fill and kernels are compiled and tuned.
const WARM_UP: usize = 2;

/// Seconds over the rounds that count.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Timing {
    lower_quartile: f64,
    median: f64,
    upper_quartile: f64,
}

/// Times a prompt, then single tokens after it, at batch 1, and prints both.
pub fn run(checkpoint: &Checkpoint, mut model: Model, args: &BenchArgs) -> Result<()> {
    ensure!(
        args.prefill > 0 && args.decode > 0 && args.rounds > 0,
        "--prefill, --decode and --rounds must be at least 1"
    );
    let (length, context) = (args.prefill + args.decode, checkpoint.config().context());
    ensure!(
        length <= context,
        "--prefill and --decode make {length} tokens, but the model was made for {context} positions"
    );
    println!("{}", weights(&mut model));
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + args.rounds {
        let (prompt, tokens) = time(&model, args)?;
        if round >= WARM_UP {
            prefill.push(prompt);
            decode.extend(tokens);
        }
    }
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["batch 1", "tokens/s, median", "quartiles", "median ms"]);
    table.add_row(row(&format!("prefill {}", args.prefill), args.prefill, quartiles(prefill)));
    table.add_row(row(&format!("decode {}", args.decode), 1, quartiles(decode)));
    println!("{table}");
    Ok(())
}

/// Seconds of the prompt, and of each token after it.
fn time(model: &Model, args: &BenchArgs) -> Result<(f64, Vec<f64>)> {
    let vocabulary = model.vocabulary();
    let text: Vec<u32> =
        (0..args.prefill + args.decode).map(|at| (at * 31 % vocabulary) as u32).collect();
    let (prompt, rest) = text.split_at(args.prefill);
    let mut cache = model.cache();
    // Scores come back to the host, so the device is done when the clock is read.
    let mut seconds = |tokens: &[u32]| -> Result<f64> {
        let clock = Instant::now();
        next_scores(model, tokens, &mut cache)?;
        Ok(clock.elapsed().as_secs_f64())
    };
    let prefill = seconds(prompt)?;
    let decode = rest.chunks(1).map(&mut seconds).collect::<Result<_>>()?;
    Ok((prefill, decode))
}

/// How much of the linear layers is there.
fn weights(model: &mut Model) -> String {
    let dtype = model.dtype();
    let linears = model.linears_mut();
    let sparse = linears.iter().filter(|(_, linear)| matches!(linear, Linear::Sparse(_))).count();
    let size = |linear: &Linear| linear.shape().iter().product::<usize>();
    let all: usize = linears.iter().map(|(_, linear)| size(linear)).sum();
    let removed: f64 =
        linears.iter().map(|(_, linear)| linear.sparsity() * size(linear) as f64).sum();
    let bytes: usize = linears.iter().map(|(_, linear)| linear.bytes()).sum();
    format!(
        "{sparse} of {} linear layers block-sparse, {:.1} % of their weights removed, {:.1} MiB in {dtype:?}",
        linears.len(),
        100.0 * removed / all as f64,
        bytes as f64 / f64::from(1 << 20),
    )
}

fn row(name: &str, tokens: usize, timing: Timing) -> [String; 4] {
    let rate = |seconds: f64| format!("{:.1}", tokens as f64 / seconds);
    [
        name.to_string(),
        rate(timing.median),
        format!("{} to {}", rate(timing.upper_quartile), rate(timing.lower_quartile)),
        format!("{:.2}", timing.median * 1e3),
    ]
}

fn quartiles(mut values: Vec<f64>) -> Timing {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    Timing { lower_quartile: at(0.25), median: at(0.5), upper_quartile: at(0.75) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_taken_from_the_sorted_times() {
        let timing = quartiles(vec![0.5, 0.1, 0.4, 0.2, 0.25]);
        assert_eq!(row("prefill 10", 10, timing), ["prefill 10", "40.0", "25.0 to 50.0", "250.00"]);
    }
}
