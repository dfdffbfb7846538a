//! Tensor names in files, and parameter paths in modules.

use burn_store::KeyRemapper;

use crate::Config;

/// Renames from file to module. Norms call their weight and bias otherwise in Burn, and the first GPT-2 checkpoints
/// leave out the name of the decoder.
const TO_MODULE: [(&str, &str); 3] = [
    (r"^(wte|wpe|h|ln_f)\.", "transformer.$1."),
    (r"(norm|\.ln_1|\.ln_2|\.ln_f)\.weight$", "$1.gamma"),
    (r"(\.ln_1|\.ln_2|\.ln_f)\.bias$", "$1.beta"),
];

/// Ends of the names of the entries of a packed weight.
pub(super) const PACKED: [&str; 4] =
    [".weight.values", ".weight.row_idx", ".weight.col_ptr", ".weight.layout"];

/// Buffers that some checkpoints store and models compute themselves: causal masks and rotary frequencies.
const BUFFERS: [&str; 3] = [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"];

/// Marks a weight that was saved within pruning; it says nothing about the function.
const PROBE: &str = ".weight.probe";

/// Whether a file has the dense weight of a linear layer as `[d_output, d_input]`: PyTorch's `Linear` does, the
/// `Conv1D` of GPT-2 does not.
pub(super) fn is_turned(path: &str, config: &Config) -> bool {
    let projection = matches!(config, Config::Llama(_)) && path.ends_with("_proj.weight");
    projection || path == "lm_head.weight"
}

pub(super) fn to_module() -> KeyRemapper {
    KeyRemapper::from_patterns(TO_MODULE.to_vec()).expect("the patterns are constants")
}

/// The name in a file of a parameter path.
pub(super) fn in_file(path: &str) -> String {
    match path.rsplit_once('.') {
        Some((owner, "gamma")) => format!("{owner}.weight"),
        Some((owner, "beta")) => format!("{owner}.bias"),
        _ => path.to_string(),
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
