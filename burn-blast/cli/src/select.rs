//! Which weights of a checkpoint are pruned.

use std::collections::BTreeMap;

use burn_blast_checkpoint::format::{TENSORS, leaf};
use burn_blast_checkpoint::{Checkpoint, DenseWeight, Orientation, name_parts};
use burn_blast_kernels::BlockSize;
use regex::Regex;

use crate::args::SparsifyArgs;
use crate::error::Error;

/// Names of MLP weights in the families of models on Hugging Face, for when no name is included explicitly.
pub const KNOWN: [&str; 5] = [
    // Llama, Qwen, Gemma, Phi, GPT-2, GPT-NeoX, Falcon, ViT; experts of Qwen and DeepSeek.
    r"(^|\.)mlp\.(.+\.)?(gate_proj|up_proj|down_proj|gate_up_proj|c_fc|c_proj|fc1|fc2|fc_in|fc_out|dense_h_to_4h|dense_4h_to_h)\.weight$",
    // Mixtral's experts, the original Llama names, DistilBERT.
    r"(^|\.)(experts\.\d+|feed_forward|ffn)\.(w1|w2|w3|gate_proj|up_proj|down_proj|lin1|lin2)\.weight$",
    // OPT, BART, Whisper.
    r"(^|\.)layers\.\d+\.fc[12]\.weight$",
    // BERT, whose attention has an `output.dense` too.
    r"(^|\.)layer\.\d+\.(intermediate|output)\.dense\.weight$",
    // T5.
    r"(^|\.)DenseReluDense\.(wi|wi_0|wi_1|wo)\.weight$",
];

/// Names of tables of embeddings in the same families. Their rows are looked up, which blocks cannot be.
const TABLES: &str = r"(^|\.)(embed_tokens|tok_embeddings|embed_in|embed_positions|wte|wpe|(word|position|token_type)_embeddings|shared)\.weight$";

/// How dense weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OrientationArg {
    /// in-out for GPT-2's Conv1D and files of burn-blast, out-in for all others
    Auto,
    /// [d_output, d_input], as nn.Linear of PyTorch
    OutIn,
    /// [d_input, d_output], as nn::Linear of Burn and Conv1D
    InOut,
}

/// Result of [`select`].
#[derive(Debug)]
pub struct Selected<'a> {
    /// Weights to prune, in the order of their layers.
    pub weights: Vec<DenseWeight<'a>>,
    /// Weights that were meant, but belong to the last layers.
    pub kept_dense: Vec<String>,
}

/// How a dense weight of this name is stored.
pub fn orientation(
    checkpoint: &Checkpoint,
    name: &str,
    stored: OrientationArg,
) -> Result<Orientation, Error> {
    Ok(match stored {
        OrientationArg::OutIn => Orientation::OutIn,
        OrientationArg::InOut => Orientation::InOut,
        OrientationArg::Auto => checkpoint.orientation(name)?,
    })
}

/// Selects the weights to prune.
///
/// # Errors
/// If a filter matches nothing, nothing is left, or a weight cannot be pruned in blocks of this size.
pub fn select<'a>(
    checkpoint: &'a Checkpoint,
    args: &SparsifyArgs,
    block: BlockSize,
) -> Result<Selected<'a>, Error> {
    let matrices = matrices(checkpoint);
    let included = included(&matrices, &args.include)?;
    let unmatched = |filter: &&Regex| !included.iter().any(|name| filter.is_match(name));
    if let Some(filter) = args.exclude.iter().find(unmatched) {
        return Err(nothing("--exclude", filter, &included));
    }
    let stays = |name: &&str| !args.exclude.iter().any(|filter| filter.is_match(name));
    let names: Vec<&str> = included.iter().copied().filter(stays).collect();
    if names.is_empty() {
        let reason = "--exclude matches every weight".to_string();
        return Err(Error::NothingLeft { reason });
    }
    let (names, kept_dense) = dense_last(names, &checkpoint.names(), args.blocks.dense_last)?;
    let weights: Result<_, _> =
        names.into_iter().map(|name| weight(checkpoint, name, args.orientation, block)).collect();
    Ok(Selected { weights: weights?, kept_dense })
}

/// Names of all tensors of two axes, whatever their type: a quantised one is answered with an error.
fn matrices(checkpoint: &Checkpoint) -> Vec<&str> {
    let matrix =
        |name: &&str| checkpoint.tensor(name).is_some_and(|tensor| tensor.shape().len() == 2);
    checkpoint.names().into_iter().filter(matrix).collect()
}

fn included<'a>(matrices: &[&'a str], filters: &[Regex]) -> Result<Vec<&'a str>, Error> {
    let known = KNOWN.map(|filter| Regex::new(filter).expect("a constant that a test compiles"));
    let unmatched = |filter: &&Regex| !matrices.iter().any(|name| filter.is_match(name));
    if let Some(filter) = filters.iter().find(unmatched) {
        return Err(nothing("--include", filter, matrices));
    }
    let filters = if filters.is_empty() { &known } else { filters };
    let included = |name: &&&str| filters.iter().any(|filter| filter.is_match(name));
    let included: Vec<&str> = matrices.iter().filter(included).copied().collect();
    if included.is_empty() {
        return Err(Error::NothingKnown { known: listed(matrices) });
    }
    Ok(included)
}

/// Takes out the last layers of every stack. Layers are counted over all tensors, by the first number in a name; a
/// stack is what stands before it.
fn dense_last<'a>(
    names: Vec<&'a str>,
    all: &[&str],
    count: usize,
) -> Result<(Vec<&'a str>, Vec<String>), Error> {
    if count == 0 {
        return Ok((names, Vec::new()));
    }
    let mut stacks: BTreeMap<Vec<&str>, Vec<u64>> = BTreeMap::new();
    for (stack, layer) in all.iter().filter_map(|name| layer(name)) {
        stacks.entry(stack).or_default().push(layer);
    }
    if !names.iter().any(|name| layer(name).is_some()) {
        let reason = "--dense-last counts layers by the number in a name, and no name has one";
        return Err(Error::NothingLeft { reason: reason.to_string() });
    }
    for layers in stacks.values_mut() {
        layers.sort_unstable();
        layers.dedup();
        layers.drain(..layers.len().saturating_sub(count));
    }
    let last =
        |name: &&str| layer(name).is_some_and(|(stack, layer)| stacks[&stack].contains(&layer));
    let (kept, names): (Vec<&str>, Vec<&str>) = names.into_iter().partition(last);
    if names.is_empty() {
        let reason = format!("--dense-last {count} keeps every layer dense");
        return Err(Error::NothingLeft { reason });
    }
    Ok((names, kept.into_iter().map(str::to_owned).collect()))
}

fn layer(name: &str) -> Option<(Vec<&str>, u64)> {
    let mut stack = Vec::new();
    for part in name_parts(name) {
        match part {
            Ok(layer) => return Some((stack, layer)),
            Err(text) => stack.push(text),
        }
    }
    None
}

fn weight<'a>(
    checkpoint: &'a Checkpoint,
    name: &str,
    stored: OrientationArg,
    block: BlockSize,
) -> Result<DenseWeight<'a>, Error> {
    let tensor = checkpoint.tensor(name).expect("its name comes from the checkpoint");
    if Regex::new(TABLES).expect("a constant that a test compiles").is_match(name) {
        return Err(Error::Table { name: name.to_owned() });
    }
    let orientation = orientation(checkpoint, name, stored)?;
    let Some(weight) = DenseWeight::of(name, tensor, orientation)? else {
        let dtype = tensor.dtype().to_string();
        return Err(Error::Dtype { name: name.to_owned(), dtype });
    };
    let ([rows, cols], block) = (weight.layout.dims(), block.get());
    if rows < block || cols < block {
        return Err(Error::BlockTooLarge { name: name.to_owned(), rows, cols, block });
    }
    let taken = TENSORS.map(|part| leaf(name, part));
    match taken.into_iter().find(|name| checkpoint.tensor(name).is_some()) {
        Some(name) => Err(Error::NameTaken { name }),
        None => Ok(weight),
    }
}

fn nothing(option: &'static str, filter: &Regex, known: &[&str]) -> Error {
    Error::FilterMatchesNothing { option, filter: filter.to_string(), known: listed(known) }
}

/// Names for a message, not a page of them.
fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 12;
    match names.len() {
        0 => "none".to_string(),
        found if found <= SHOWN => names.join(", "),
        found => format!("{} and {} more", names[..SHOWN].join(", "), found - SHOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str) -> bool {
        KNOWN.iter().any(|filter| Regex::new(filter).unwrap().is_match(name))
    }

    #[test]
    fn mlp_weights_of_common_families_are_known_and_others_are_not() {
        for name in [
            "model.layers.0.mlp.up_proj.weight",
            "h.3.mlp.c_fc.weight",
            "gpt_neox.layers.1.mlp.dense_4h_to_h.weight",
            "model.layers.7.block_sparse_moe.experts.3.w2.weight",
            "model.layers.7.mlp.experts.12.down_proj.weight",
            "model.decoder.layers.2.fc1.weight",
            "bert.encoder.layer.11.output.dense.weight",
            "encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
        ] {
            assert!(known(name), "{name}");
        }
        for name in [
            "model.layers.0.self_attn.q_proj.weight",
            "model.embed_tokens.weight",
            "lm_head.weight",
            "h.0.attn.c_proj.weight",
            "model.layers.3.mlp.gate.weight",
            "bert.encoder.layer.11.attention.output.dense.weight",
            "h.3.mlp.c_fc.bias",
        ] {
            assert!(!known(name), "{name}");
        }
    }

    #[test]
    fn tables_of_embeddings_are_known_and_layers_are_not_taken_for_them() {
        let tables = Regex::new(TABLES).unwrap();
        for name in
            ["model.embed_tokens.weight", "wte.weight", "transformer.wpe.weight", "shared.weight"]
        {
            assert!(tables.is_match(name), "{name}");
        }
        for name in ["lm_head.weight", "model.layers.0.mlp.shared_expert.up_proj.weight"] {
            assert!(!tables.is_match(name), "{name}");
        }
    }

    #[test]
    fn the_last_layers_of_every_stack_stay_dense() {
        let all = ["enc.2.a", "enc.10.a", "enc.10.b", "dec.0.a", "dec.1.a", "dec.2.norm", "other"];
        let names = [&all[..5], &all[6..]].concat();
        let (names, kept) = dense_last(names, &all, 1).unwrap();
        // Layer 2 of the decoder is its last, though nothing of it is chosen.
        assert_eq!(names, ["enc.2.a", "dec.0.a", "dec.1.a", "other"]);
        assert_eq!(kept, ["enc.10.a", "enc.10.b"]);
    }
}
