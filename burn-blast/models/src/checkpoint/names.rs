//! Tensor names in files, and parameter paths in modules.

use burn_store::KeyRemapper;

use crate::Config;

/// Ends of the names of the entries of a packed weight.
pub(crate) const PACKED: [&str; 4] =
    [".weight.values", ".weight.row_idx", ".weight.col_ptr", ".weight.layout"];

/// Buffers that some checkpoints store and models compute themselves: causal masks and rotary frequencies.
const BUFFERS: [&str; 3] = [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"];

/// Marks a weight that was saved within pruning; it says nothing about the function.
const PROBE: &str = ".weight.probe";

/// Ends of the names of the entries of an adapter: two factors and what their product is multiplied by. They stand
/// beside the weight they change.
pub(super) const ADAPTER: [&str; 3] = [".lora_a", ".lora_b", ".lora_scale"];

/// The path in the module of a weight or bias that has an adapter beside it: it is one level below.
pub(super) fn adapted(path: &str, has_adapter: impl Fn(&str) -> bool) -> Option<String> {
    let ends = PACKED.into_iter().chain([".bias"]);
    let (layer, end) = ends.filter_map(|end| Some((path.strip_suffix(end)?, end))).next()?;
    has_adapter(layer).then(|| format!("{layer}.base{end}"))
}

pub(super) fn to_module(config: &Config) -> KeyRemapper {
    KeyRemapper::from_patterns(config.family().renames().to_vec())
        .expect("the patterns are constants")
}

/// The name in a file of a parameter path.
pub(super) fn in_file(path: &str) -> String {
    match path.rsplit_once('.') {
        Some((owner, "gamma")) => format!("{owner}.weight"),
        Some((owner, "beta")) => format!("{owner}.bias"),
        // Below an adapter.
        _ => path.replace(".base.", "."),
    }
}

/// Whether a parameter path is part of a packed weight.
pub(super) fn is_packed(path: &str) -> bool {
    PACKED.iter().any(|end| path.ends_with(end))
}

/// Whether a model has no use for a tensor.
pub(super) fn is_ignored(path: &str, tied: bool) -> bool {
    BUFFERS.iter().any(|end| path.ends_with(end))
        || path.ends_with(PROBE)
        || (tied && path == "lm_head.weight")
}
