//! Options of `blast recover`.

use std::path::PathBuf;

use burn_blast_models::recover::Recover;
use burn_blast_models::{Blocks, Timing};
use clap::Args;

use super::{BLOCK, DeviceArgs, JsonArgs, OutputArgs};

fn recover() -> Recover {
    Recover::new(Blocks::new(BLOCK).with_sparsity(0.5))
}

/// A size with a unit.
fn bytes(text: &str) -> Result<f64, String> {
    let units = [("kib", 1 << 10), ("mib", 1 << 20), ("gib", 1 << 30)];
    let units = units.into_iter().chain([("kb", 1000), ("mb", 1_000_000), ("gb", 1_000_000_000)]);
    let text = text.to_lowercase();
    for (unit, factor) in units {
        if let Some(number) = text.strip_suffix(unit)
            && let Ok(number) = number.trim().parse::<f64>()
            && number.is_finite()
            && number > 0.0
        {
            return Ok(number * f64::from(factor));
        }
    }
    Err("a size is a number above 0 with kB, MB, GB, KiB, MiB or GiB, such as 120MB".to_owned())
}

#[derive(Args, Clone, Debug)]
pub struct RecoverArgs {
    /// Folder of the dense model
    pub model: PathBuf,

    #[command(flatten)]
    pub out: OutputArgs,

    /// Text to train on, JSON lines with a "text" in each, or a folder of them; the last tenth of each is held out. May be
    /// repeated
    #[arg(long, value_name = "FILE|DIR", required = true)]
    pub corpus: Vec<PathBuf>,

    /// Share of the MLPs to remove, at least 0 and below 1
    #[arg(long, value_name = "SHARE", default_value_t = recover().blocks.sparsity)]
    pub sparsity: f64,

    /// Remove as much as makes the tensors this large, such as 120MB, instead of --sparsity
    #[arg(long, value_name = "SIZE", value_parser = bytes, conflicts_with = "sparsity")]
    pub bytes: Option<f64>,

    /// Side of a block: 8, 16, 32, 64 or 128
    #[arg(long, value_name = "SIDE", default_value_t = recover().blocks.block)]
    pub block: usize,

    /// Hours that the run may take
    #[arg(long, default_value_t = recover().hours, conflicts_with = "steps")]
    pub hours: f64,

    /// Steps of distillation, instead of as many as --hours allow
    #[arg(long)]
    pub steps: Option<usize>,

    /// Highest learning rate of distillation [default: 0.0005]
    #[arg(long, help_heading = "Training")]
    pub lr: Option<f64>,

    /// Steps of reconstruction
    #[arg(long, value_name = "STEPS", default_value_t = recover().reconstruct_steps, help_heading = "Training")]
    pub reconstruct_steps: usize,

    /// Highest learning rate of reconstruction
    #[arg(long, value_name = "LR", default_value_t = recover().reconstruct_lr, help_heading = "Training")]
    pub reconstruct_lr: f64,

    /// Tokens of a sequence in training [default: 256]
    #[arg(long, value_name = "TOKENS", help_heading = "Training")]
    pub context: Option<usize>,

    /// Seed of the batches
    #[arg(long, default_value_t = recover().seed, help_heading = "Training")]
    pub seed: u64,

    #[command(flatten)]
    pub device: DeviceArgs,

    #[command(flatten)]
    pub timing: Timing,

    /// Resume the interrupted run of this OUTPUT
    #[arg(long)]
    pub resume: bool,

    #[command(flatten)]
    pub format: JsonArgs,
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn a_size_has_a_unit() {
        assert_eq!(bytes("120MB"), Ok(120e6));
        assert_eq!(bytes("1.5 GiB"), Ok(1.5 * f64::from(1 << 30)));
        assert_eq!(bytes("400KB"), Ok(400e3));
        for text in ["120", "MB", "-1MB", "0kB", "NaNMB", "infMB"] {
            assert!(bytes(text).unwrap_err().contains("such as 120MB"), "{text}");
        }
    }
}
