//! `config.json` of a GGUF file.

use anamnesis::{GgufType, ParsedGguf};
use serde_json::{Value, json};

use super::metadata::Metadata;
use super::tensors::numbers;

/// Families by their names in both formats.
const FAMILIES: [(&str, &str, &str); 5] = [
    ("llama", "llama", "LlamaForCausalLM"),
    ("qwen2", "qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "qwen3", "Qwen3ForCausalLM"),
    ("gemma3", "gemma3_text", "Gemma3ForCausalLM"),
    ("smollm3", "smollm3", "SmolLM3ForCausalLM"),
];

/// What tensors and settings of a model depend on.
#[derive(Debug)]
pub(super) struct Model {
    /// Name of the architecture in the file.
    pub(super) architecture: &'static str,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    /// Features of a head.
    head: usize,
    width: usize,
    vocabulary: usize,
    /// Whether there is an output layer of its own.
    has_head: bool,
    /// Whether attention, and the MLP, have biases.
    biases: [bool; 2],
    /// Type of the weights in the folder.
    dtype: &'static str,
    /// Divisors of the rotary frequencies.
    rope_factors: Option<Vec<f32>>,
}

impl Model {
    pub(super) fn read(metadata: &Metadata<'_>, file: &ParsedGguf) -> Result<Self, String> {
        let found = metadata.architecture;
        let family = FAMILIES.iter().find(|(name, ..)| *name == found);
        let (architecture, ..) = family.ok_or_else(|| {
            let known = FAMILIES.map(|(name, ..)| name).join(", ");
            format!("is of the architecture \"{found}\", which is not implemented: {known} are")
        })?;
        if metadata.whole(&metadata.of_architecture("expert_count")).is_some_and(|count| count > 0)
        {
            return Err(
                "is a mixture of experts, which is not implemented: dense models are".into()
            );
        }
        let parts = metadata.whole("split.count").unwrap_or(1);
        if parts > 1 {
            return Err(format!(
                "is one of {parts} parts: join them by llama-gguf-split --merge, then take the whole"
            ));
        }
        metadata.neutral("final_logit_softcapping", 0.0)?;
        metadata.neutral("attn_logit_softcapping", 0.0)?;
        metadata.neutral("rope.scaling.attn_factor", 1.0)?;
        metadata.neutral("rope.scale_linear", 1.0)?;
        let find = |name: &str| file.tensor_info().iter().find(|tensor| tensor.name == name);
        let embedding = find("token_embd.weight").ok_or("has no tensor \"token_embd.weight\"")?;
        let &[width, vocabulary] = embedding.shape.as_slice() else {
            return Err("has an embedding that is not a matrix".into());
        };
        let heads = metadata.size("attention.head_count")?;
        let key = metadata.of_architecture("attention.head_count_kv");
        let kv_heads =
            if metadata.has(&key) { metadata.size("attention.head_count_kv")? } else { heads };
        let key = metadata.of_architecture("attention.key_length");
        let head = match metadata.whole(&key) {
            Some(length) => usize::try_from(length).unwrap_or(0),
            None => width / heads,
        };
        metadata.neutral("rope.dimension_count", head as f64)?;
        let last = metadata.size("block_count")? - 1;
        if find(&format!("blk.{last}.attn_q.weight")).is_none() {
            return Err(format!("has no tensors of its layer {last}: fetch it again"));
        }
        let is_quantised = file.tensor_info().iter().any(|tensor| tensor.dtype.is_quantized());
        let dtype = match embedding.dtype {
            GgufType::F16 => "float16",
            GgufType::BF16 => "bfloat16",
            _ => "float32",
        };
        let rope_factors = find("rope_freqs.weight").map(|tensor| numbers(file, tensor));
        Ok(Self {
            architecture,
            layers: metadata.size("block_count")?,
            heads,
            kv_heads,
            head,
            width,
            vocabulary,
            has_head: find("output.weight").is_some(),
            biases: ["blk.0.attn_q.bias", "blk.0.ffn_gate.bias"].map(|name| find(name).is_some()),
            dtype: if is_quantised { "float32" } else { dtype },
            rope_factors: rope_factors.transpose()?,
        })
    }

    /// The content of `config.json`.
    pub(super) fn config(&self, metadata: &Metadata<'_>) -> Result<Value, String> {
        let named = FAMILIES.iter().find(|(name, ..)| *name == self.architecture);
        let (_, model_type, class) = named.expect("it was found there");
        let number = |setting: &str| metadata.number(&metadata.of_architecture(setting));
        let epsilon = number("attention.layer_norm_rms_epsilon")
            .ok_or("has no \"attention.layer_norm_rms_epsilon\"")?;
        let is_gemma = self.architecture == "gemma3";
        let activation = if is_gemma { "hidden_activation" } else { "hidden_act" };
        let mut config = json!({
            "architectures": [class],
            "model_type": model_type,
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "intermediate_size": metadata.size("feed_forward_length")?,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head,
            "max_position_embeddings": metadata.size("context_length")?,
            "rms_norm_eps": epsilon,
            "tie_word_embeddings": !self.has_head,
            "torch_dtype": self.dtype,
        });
        config[activation] = json!(if is_gemma { "gelu_pytorch_tanh" } else { "silu" });
        if self.architecture == "llama" {
            config["attention_bias"] = json!(self.biases[0]);
            config["mlp_bias"] = json!(self.biases[1]);
        }
        if let Some(theta) = number("rope.freq_base") {
            config["rope_theta"] = json!(theta);
        }
        if let Some(scaling) = self.rope_scaling(metadata)? {
            config["rope_scaling"] = scaling;
        }
        if is_gemma {
            config["sliding_window"] = json!(metadata.size("attention.sliding_window")?);
            // As llama.cpp does: the largest model divides by the width per head.
            let is_largest = self.layers == 62;
            let scalar = if is_largest { self.width / self.heads } else { self.head };
            config["query_pre_attn_scalar"] = json!(scalar);
        }
        Ok(config)
    }

    fn rope_scaling(&self, metadata: &Metadata<'_>) -> Result<Option<Value>, String> {
        let key = |setting: &str| metadata.of_architecture(&format!("rope.scaling.{setting}"));
        let kind = metadata.text(&key("type")).unwrap_or("none");
        let factor = metadata.number(&key("factor"));
        let original = metadata.whole(&key("original_context_length"));
        if let Some(factors) = &self.rope_factors {
            // The factors of Llama 3, in the only spelling that takes them one by one.
            return Ok(Some(json!({
                "rope_type": "longrope", "short_factor": factors, "long_factor": factors, "factor": 1.0,
                "attention_factor": 1.0, "original_max_position_embeddings": metadata.size("context_length")?,
            })));
        }
        Ok(match (kind, factor) {
            ("none", _) | ("linear", None) => None,
            ("linear", Some(factor)) => Some(json!({ "rope_type": "linear", "factor": factor })),
            ("yarn", Some(factor)) => Some(json!({
                "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original,
            })),
            (kind, _) => {
                return Err(format!(
                    "scales positions by \"{kind}\", which is not implemented: linear and yarn are"
                ));
            }
        })
    }
}
