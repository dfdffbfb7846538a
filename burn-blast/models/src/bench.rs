//! Tokens a second, of a prompt as a whole and of one token after the other.

use anyhow::{Result, ensure};
use burn_blast::module::AnyLinear;
use burn_blast_models::{Checkpoint, Model, Quartiles, Round};
use comfy_table::{Table, presets::ASCII_MARKDOWN};

use crate::cli::BenchArgs;

/// Rounds that do not count, in which caches fill and kernels are compiled and tuned.
const WARM_UP: usize = 2;

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
        let seconds = Round::run(&model, args.prefill, args.decode)?;
        if round >= WARM_UP {
            prefill.push(seconds.prefill);
            decode.extend(seconds.decode);
        }
    }
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["batch 1", "tokens/s, median", "quartiles", "median ms"]);
    table.add_row(row(&format!("prefill {}", args.prefill), args.prefill, Quartiles::of(prefill)));
    table.add_row(row(&format!("decode {}", args.decode), 1, Quartiles::of(decode)));
    println!("{table}");
    Ok(())
}

/// How much of the linear layers is there.
fn weights(model: &mut Model) -> String {
    let dtype = model.dtype();
    let linears = model.linears_mut();
    let sparse = linears.iter().filter(|(_, linear)| linear.as_sparse().is_some()).count();
    let size = |linear: &AnyLinear| linear.shape().iter().product::<usize>();
    let all: usize = linears.iter().map(|(_, linear)| size(linear)).sum();
    let removed: f64 =
        linears.iter().map(|(_, linear)| linear.sparsity() * size(linear) as f64).sum();
    let bytes: usize = linears.iter().map(|(_, linear)| linear.bytes()).sum();
    let integers = linears
        .iter()
        .any(|(_, linear)| linear.as_sparse().is_some_and(|layer| layer.weight.is_quantized()));
    format!(
        "{sparse} of {} linear layers block-sparse, {:.1} % of their weights removed, {:.1} MiB in {dtype:?}{}",
        linears.len(),
        100.0 * removed / all as f64,
        bytes as f64 / f64::from(1 << 20),
        if integers { " and 8-bit integers" } else { "" },
    )
}

fn row(name: &str, tokens: usize, seconds: Quartiles) -> [String; 4] {
    let rate = |seconds: f64| format!("{:.1}", tokens as f64 / seconds);
    [
        name.to_string(),
        rate(seconds.median),
        format!("{} to {}", rate(seconds.upper), rate(seconds.lower)),
        format!("{:.2}", seconds.median * 1e3),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_taken_from_the_sorted_times() {
        let seconds = Quartiles::of(vec![0.5, 0.1, 0.4, 0.2, 0.25]);
        assert_eq!(
            row("prefill 10", 10, seconds),
            ["prefill 10", "40.0", "25.0 to 50.0", "250.00"]
        );
    }
}
