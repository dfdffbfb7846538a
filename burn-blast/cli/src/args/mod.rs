//! The command line: commands, and options that several of them share.

mod files;
mod models;
mod recover;
mod training;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use burn_blast::module::Integer;
use burn_blast::tuning::{allow_bf16, has_dot_products};
use burn_blast_checkpoint::check_output;
use burn_blast_models::{BackendKind, Blocks, Precision, Sequences};
use clap::builder::styling::Styles;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Target of warnings, which the crates of this project have by their names.
pub const WARNINGS: &str = "burn_blast_cli";

pub use files::{DensifyArgs, DiffArgs, InspectArgs, SparsifyArgs, VerifyArgs};
pub use models::{
    ActivationsArgs, BenchArgs, CompactArgs, GenerateArgs, MeasureArgs, PerplexityArgs,
};
pub use recover::RecoverArgs;
pub use training::{DenseArgs, FineTuneArgs, MergeArgs, OneShotArgs, TrainArgs};

/// Block-sparse models and checkpoints: make, check, run, train on, compare
///
/// A checkpoint is a safetensors file, a folder as Hugging Face publishes it, or a GGUF file; a model is such a folder
/// with config.json, or a GGUF file. Without a tokenizer, the tokens of a model of 256 are bytes. Outputs appear complete or not at all.
/// Progress and errors go to standard error, results to standard output.
///
/// Exit codes: 0 success; 1 verify found problems or diff found differences; 2 wrong usage or unusable input; 130
/// stopped by a signal.
#[derive(Parser, Debug)]
#[command(name = "blast", version, styles = Styles::plain(), max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// Show no progress
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// What to do.
#[derive(Subcommand, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one command")]
pub enum Command {
    /// Remove the weakest blocks of dense weights and pack the rest
    ///
    /// Takes checkpoints of any architecture and does not run the model. `one-shot` loses less on a model that can be
    /// run, since it corrects the kept values. Without training little is left of a model at the default share of 0.9:
    /// begin with --sparsity 0.5 at most.
    Sparsify(SparsifyArgs),
    /// Show what each weight keeps, and find zero blocks in dense ones
    Inspect(InspectArgs),
    /// Check every rule of the format, lengths and index; lists all problems
    Verify(VerifyArgs),
    /// Turn packed weights into dense ones, as they were stored before, or a GGUF file into a folder
    Densify(DensifyArgs),
    /// Compare the blocks and values of two checkpoints
    Diff(DiffArgs),
    /// Continue a text
    Generate(GenerateArgs),
    /// Score a text by a sliding window
    ///
    /// The whole text is scored. `measure` scores separate sequences of the last tenth: its numbers differ.
    Perplexity(PerplexityArgs),
    /// Measure tokens per second, for a prompt and token by token
    Bench(BenchArgs),
    /// Compare models: loss on held-out text, bytes, tokens per second
    ///
    /// The loss is measured on separate sequences of --context tokens in the last tenth of the text. `perplexity`
    /// scores the whole text by a sliding window: its numbers differ.
    Measure(MeasureArgs),
    /// Collect what `sparsify --score wanda` needs: norms of the MLPs' inputs over a text
    Activations(ActivationsArgs),
    /// Train a small Llama from scratch, to have something to sparsify
    Dense(DenseArgs),
    /// Remove MLP blocks of a model at once, without training
    ///
    /// Runs the model on a text, to find what its loss depends on or to correct what is kept; `sparsify` takes any checkpoint and
    /// runs nothing. `--method taylor`, the default, sorts hidden features so that those it removes are whole blocks: the model
    /// computes the same, but its values are in another order. Without training little is left of a model at the default share of 0.9: begin with --sparsity 0.5 at
    /// most.
    OneShot(OneShotArgs),
    /// Remove MLP blocks step by step while a model trains on, or train adapters beside the kept blocks
    FineTune(FineTuneArgs),
    /// Make a trained model sparse and bring it back, in one run: remove, reconstruct, distil, measure
    ///
    /// Groups of hidden features of the MLPs are removed by the loss that depends on them. Then each MLP is trained to give
    /// what the dense one gives, and all together on the scores of the dense model. The run takes --hours; after Ctrl-C or
    /// a crash the same command with --resume resumes it.
    Recover(RecoverArgs),
    /// Merge adapters into the weights beside them
    Merge(MergeArgs),
    /// Show which hidden features and heads contribute nothing, and write the model without them
    Compact(CompactArgs),
}

/// Headings of the help, and the last command below each.
const HEADINGS: [(&str, &str); 3] = [
    ("Checkpoints", "diff"),
    ("Running a model", "activations"),
    ("Making a model sparse, and training", "compact"),
];

impl Cli {
    /// Reads the command line; ends the process for help or wrong usage.
    pub fn read() -> Self {
        let matches = grouped().get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// The command line, with the commands of its help in groups.
fn grouped() -> clap::Command {
    let command = Cli::command();
    let mut list = String::new();
    let mut headings = HEADINGS.iter();
    let mut begins = true;
    for command in command.get_subcommands() {
        let (name, about) = (command.get_name(), command.get_about().cloned().unwrap_or_default());
        if begins {
            list += &format!("{}:\n", headings.next().map_or("", |(heading, _)| heading));
        }
        begins = HEADINGS.iter().any(|(_, last)| *last == name);
        list += &format!("  {name:12} {about}\n{}", if begins { "\n" } else { "" });
    }
    command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{list}Options:\n{{options}}{{after-help}}"
    ))
}

/// Side of a block.
pub const BLOCK: usize = 32;

/// Share of blocks that is removed.
pub const SPARSITY: f64 = 0.9;

/// Which blocks are removed.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockArgs {
    /// Share of blocks to remove, at least 0 and below 1 [default: 0.9]
    #[arg(long, value_name = "SHARE")]
    pub sparsity: Option<f64>,

    /// Side of a block: 8, 16, 32, 64 or 128 [default: 32]
    #[arg(long, value_name = "SIDE")]
    pub block: Option<usize>,

    /// Leave the last layers dense
    #[arg(long, value_name = "LAYERS", default_value_t = 0)]
    pub dense_last: usize,
}

impl BlockArgs {
    /// As the models take them. What is not asked for is as in a block-sparse model, if there is one.
    pub fn blocks(&self, model: Option<Blocks>) -> Blocks {
        let default = model.unwrap_or(Blocks::new(BLOCK).with_sparsity(SPARSITY));
        Blocks::new(self.block.unwrap_or(default.block))
            .with_sparsity(self.sparsity.unwrap_or(default.sparsity))
            .with_dense_last(self.dense_last)
    }
}

/// What is written.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputArgs {
    /// File or folder to write
    #[serde(serialize_with = "crate::paths::one")]
    pub output: PathBuf,

    /// Replace the output if it is there; a folder only if it is a checkpoint or empty
    #[arg(long)]
    #[serde(skip)]
    pub force: bool,
}

impl OutputArgs {
    /// Refuses a folder that must not be written, before anything else is done. `input`: what it is made from.
    pub fn check(&self, input: Option<&Path>) -> Result<(), Error> {
        Ok(check_output(input, true, &self.output, self.force)?)
    }
}

/// Where a model runs.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceArgs {
    /// Where to compute; GPUs need a build with their feature
    #[arg(long, value_enum, default_value_t = BackendKind::Flex, help_heading = "Device")]
    pub backend: BackendKind,

    /// Data type of weights and features [default: f32 on a CPU, otherwise the checkpoint's]
    #[arg(long, value_enum, help_heading = "Device")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Precision>,

    /// Round the factors of products in f32 to bf16, each by at most 0.4 %; faster for prompts and in training on
    /// processors of AMD from Zen 4 on and of Intel with AMX, without effect elsewhere
    #[arg(long, help_heading = "Device")]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bf16_products: bool,
}

impl DeviceArgs {
    /// Refuses what has no effect on a command that computes with the layers of Burn.
    ///
    /// # Errors
    /// [`Error::WithoutEffect`].
    pub fn check_dense(&self) -> Result<(), Error> {
        let needs = "the kernels of block-sparse layers, which this command does not use";
        match self.bf16_products {
            true => Err(Error::WithoutEffect { option: "--bf16-products", needs }),
            false => Ok(()),
        }
    }

    /// Opens the device, and has it multiply as asked for.
    ///
    /// # Errors
    /// If this build does not hold the backend.
    pub fn open(&self) -> Result<Device, Error> {
        let device = self.backend.open()?;
        if self.bf16_products && !(self.backend.is_host() && has_dot_products()) {
            log::warn!(
                target: WARNINGS,
                "--bf16-products changes nothing here: it is for the CPU, and needs AVX512-BF16 of AMD or AMX"
            );
        } else if self.bf16_products && self.precision() != Precision::F32 {
            log::warn!(
                target: WARNINGS,
                "--bf16-products changes nothing in another data type than f32"
            );
        }
        allow_bf16(self.bf16_products);
        Ok(device)
    }

    /// The data type asked for, or the one that suits the backend: a CPU converts others for every product.
    pub fn precision(&self) -> Precision {
        let host = if self.backend.is_host() { Precision::F32 } else { Precision::File };
        self.dtype.unwrap_or(host)
    }
}

/// Which model, and how it runs.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Folder of the model
    pub model: PathBuf,

    #[command(flatten)]
    pub device: DeviceArgs,

    /// Leave out hidden features and heads that contribute nothing, as `compact` shows them
    #[arg(long)]
    pub compact: bool,

    /// Round the weights of linear layers to 8-bit integers, one scale per block: a quarter of the bytes of f32. On a GPU,
    /// of block-sparse ones alone
    #[arg(long, conflicts_with = "int4")]
    pub int8: bool,

    /// Round the weights of linear layers to 4-bit integers, five bits for a weight with what scales them; the output layer to
    /// 8 bits. On a CPU, with the flex backend. Up to 32 weights share a range: it may lose less than --int8, where a whole block
    /// shares a scale
    #[arg(long)]
    pub int4: bool,

    /// With --int8, round the features that weights multiply to 8-bit integers too; faster for prompts on processors with
    /// AVX512-VNNI, without effect elsewhere
    #[arg(long, requires = "int8", conflicts_with = "int4")]
    pub int8_products: bool,
}

impl ModelArgs {
    /// The integers that weights are rounded to.
    pub fn integer(&self) -> Option<Integer> {
        match (self.int8, self.int4) {
            (true, _) => Some(Integer::Int8),
            (_, true) => Some(Integer::Int4),
            _ => None,
        }
    }
}

/// A text to train on, and how it is cut.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CorpusArgs {
    /// Text file, JSON lines with a "text" in each, or a folder of them; the last tenth is held out
    #[arg(long, value_name = "FILE|DIR")]
    #[serde(serialize_with = "crate::paths::one")]
    pub corpus: PathBuf,

    #[command(flatten)]
    pub sequences: Sequences,
}

/// How the result is printed.
#[derive(Args, Clone, Copy, Debug)]
pub struct JsonArgs {
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_do_not_contradict_each_other() {
        grouped().debug_assert();
    }

    #[test]
    fn the_help_has_every_command_below_a_heading() {
        let help = grouped().render_long_help().to_string();
        for command in Cli::command().get_subcommands() {
            assert!(help.contains(&format!("\n  {} ", command.get_name())), "{help}");
        }
        assert!(HEADINGS.iter().all(|(heading, _)| help.contains(heading)), "{help}");
    }

    #[test]
    fn every_command_and_every_option_says_what_it_does() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                let name = format!("{} {}", command.get_name(), argument.get_id());
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.len() > 8, "{name} says \"{help}\"");
                let takes_value = argument.get_action().takes_values();
                for value in argument.get_possible_values().iter().filter(|_| takes_value) {
                    assert!(value.get_help().is_some(), "{name} {}", value.get_name());
                }
            }
        }
    }

    #[test]
    fn options_of_the_same_name_have_the_same_default() {
        let mut defaults = std::collections::BTreeMap::new();
        for command in Cli::command().get_subcommands() {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                if argument.get_long().is_none() {
                    continue;
                }
                let values = argument.get_default_values().to_vec();
                let first = defaults.entry(name.to_string()).or_insert(values.clone());
                let unset = first.is_empty() || values.is_empty();
                assert!(unset || *first == values, "{} {name}", command.get_name());
            }
        }
    }

    #[test]
    fn a_cpu_computes_in_single_precision_unless_told_otherwise() {
        use burn_blast_models::Precision;
        let precision =
            |flags: &[&str]| match Cli::parse_from([&["blast", "bench", "folder"], flags].concat())
                .command
            {
                Command::Bench(args) => args.model.device.precision(),
                other => panic!("{other:?} is not a bench"),
            };
        assert_eq!(precision(&[]), Precision::F32);
        assert_eq!(precision(&["--dtype", "file"]), Precision::File);
        assert_eq!(precision(&["--backend", "wgpu"]), Precision::File);
        assert_eq!(precision(&["--backend", "wgpu", "--dtype", "bf16"]), Precision::BF16);
    }
}
