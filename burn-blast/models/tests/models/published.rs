//! Settings as published models have them: facts of their `config.json`, with keys that nothing here reads.

use burn_blast_models::{DecoderConfig, ModelConfig, ModelFolder, RopeScaling};
use serde_json::{Value, json};

/// The settings of a published model.
fn published(name: &str) -> Value {
    match name {
        "SmolLM2-135M" => json!({
            "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 0,
            "eos_token_id": 0, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
            "intermediate_size": 1536, "is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false,
            "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
            "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": false, "rope_scaling": null,
            "rope_theta": 100000, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 49152,
        }),
        "Llama-3.2-1B-Instruct" => json!({
            "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 128000,
            "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
            "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
            "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1,
            "rms_norm_eps": 1e-05, "rope_scaling": {
                "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3",
            },
            "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 128256,
        }),
        "TinyLlama-1.1B-Chat-v1.0" => json!({
            "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 1, "eos_token_id": 2,
            "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5632, "max_position_embeddings": 2048,
            "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 22, "num_key_value_heads": 4,
            "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 10000.0,
            "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 32000,
        }),
        "Mistral-7B-v0.1" => json!({
            "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
            "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",
            "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": false, "vocab_size": 32000,
        }),
        "Mistral-7B-Instruct-v0.3" => {
            let mut json = published("Mistral-7B-v0.1");
            (json["sliding_window"], json["rope_theta"]) = (Value::Null, json!(1000000.0));
            json["vocab_size"] = json!(32768);
            json
        }
        "Qwen2.5-0.5B-Instruct" => json!({
            "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
            "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864,
            "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2",
            "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": true,
            "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 151936,
        }),
        "Qwen2.5-7B-Instruct with YaRN" => json!({
            "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "hidden_size": 3584,
            "intermediate_size": 18944, "max_position_embeddings": 32768, "max_window_layers": 28,
            "model_type": "qwen2", "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
            "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": false,
            "rope_scaling": { "factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn" },
            "use_sliding_window": false, "vocab_size": 152064,
        }),
        "Qwen3-0.6B" => json!({
            "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "bos_token_id": 151643,
            "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
            "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
            "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null,
            "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 151936,
        }),
        "SmolLM3-3B" => json!({
            "architectures": ["SmolLM3ForCausalLM"], "attention_bias": false, "bos_token_id": null,
            "eos_token_id": 128012, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 11008,
            "layer_types": vec!["full_attention"; 36], "max_position_embeddings": 65536, "max_window_layers": 28,
            "mlp_bias": false, "model_type": "smollm3", "no_rope_layer_interval": 4,
            "no_rope_layers": ([1, 1, 1, 0].repeat(9)), "num_attention_heads": 16, "num_hidden_layers": 36,
            "num_key_value_heads": 4, "pretraining_tp": 2, "rms_norm_eps": 1e-06, "rope_scaling": null,
            "rope_theta": 5000000.0, "sliding_window": null, "torch_dtype": "bfloat16", "use_sliding_window": false,
            "vocab_size": 128256,
        }),
        "gemma-3-1b-it" => json!({
            "architectures": ["Gemma3ForCausalLM"], "attention_bias": false, "attn_logit_softcapping": null,
            "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": [1, 106],
            "final_logit_softcapping": null, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 1152, "intermediate_size": 6912, "max_position_embeddings": 32768,
            "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26,
            "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
            "rope_local_base_freq": 10000, "rope_scaling": null, "rope_theta": 1000000, "sliding_window": 512,
            "sliding_window_pattern": 6, "torch_dtype": "bfloat16", "vocab_size": 262144,
        }),
        "gpt2" => json!({
            "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
            "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12,
            "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1, "summary_type": "cls_index",
            "task_specific_params": { "text-generation": { "do_sample": true, "max_length": 50 } },
            "vocab_size": 50257,
        }),
        _ => unreachable!("{name}"),
    }
}

fn decoder(folder: &ModelFolder) -> &DecoderConfig {
    match folder.config() {
        ModelConfig::Decoder(config) => config,
        other => panic!("{other:?}"),
    }
}

#[test]
fn published_settings_are_understood() {
    for (name, context, width, ends) in [
        ("SmolLM2-135M", 8192, 576, vec![0]),
        ("Llama-3.2-1B-Instruct", 131_072, 2048, vec![128_001, 128_008, 128_009]),
        ("TinyLlama-1.1B-Chat-v1.0", 2048, 2048, vec![2]),
        ("Mistral-7B-v0.1", 32_768, 4096, vec![2]),
        ("Mistral-7B-Instruct-v0.3", 32_768, 4096, vec![2]),
        ("Qwen2.5-0.5B-Instruct", 32_768, 896, vec![151_645]),
        ("Qwen2.5-7B-Instruct with YaRN", 131_072, 3584, vec![]),
        ("Qwen3-0.6B", 40_960, 1024, vec![151_645]),
        ("SmolLM3-3B", 65_536, 2048, vec![128_012]),
        ("gemma-3-1b-it", 32_768, 1152, vec![1, 106]),
        ("gpt2", 1024, 768, vec![50_256]),
    ] {
        let folder = ModelFolder::new(published(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let config = folder.config();
        assert_eq!((config.context(), config.width()), (context, width), "{name}");
        assert_eq!(folder.stop().iter().copied().collect::<Vec<_>>(), ends, "{name}");
    }
}

#[test]
fn what_tells_families_apart_is_read() {
    let open = |name| ModelFolder::new(published(name)).unwrap();
    let windows = |name| -> Vec<Option<usize>> {
        let folder = open(name);
        decoder(&folder).design.layers.iter().map(|layer| layer.window).collect()
    };
    assert_eq!(windows("Mistral-7B-v0.1"), [Some(4096); 32]);
    assert_eq!(windows("Mistral-7B-Instruct-v0.3"), [None; 32]);
    assert_eq!(windows("Qwen2.5-0.5B-Instruct"), [None; 24]);
    let gemma = windows("gemma-3-1b-it");
    assert_eq!(
        gemma[..7],
        [Some(512), Some(512), Some(512), Some(512), Some(512), None, Some(512)]
    );
    let gemma = open("gemma-3-1b-it");
    let design = &decoder(&gemma).design;
    assert!(design.unit_offset && design.head_norms && design.scaled_embedding);
    assert_eq!(design.local_rope.as_ref().unwrap().theta, 10_000.0);
    assert_eq!((decoder(&gemma).rope.theta, gemma.config().is_tied()), (1_000_000.0, true));
    let smol = open("SmolLM3-3B");
    let rotated = decoder(&smol).design.layers.iter().map(|layer| layer.rotated);
    assert_eq!(rotated.collect::<Vec<_>>(), [true, true, true, false].repeat(9));
    assert!(smol.config().is_tied());
    let qwen = open("Qwen2.5-0.5B-Instruct");
    assert!(decoder(&qwen).attention_bias && decoder(&qwen).design.unbiased_output);
    assert_eq!(decoder(&open("Qwen3-0.6B")).head_dim, 128);
    let yarn = open("Qwen2.5-7B-Instruct with YaRN");
    let RopeScaling::Yarn { attention, .. } = decoder(&yarn).rope.scaling else { panic!() };
    assert!((attention - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12);
}

#[test]
fn what_is_not_implemented_is_refused_with_its_reason() {
    let quantised = json!({ "quant_method": "awq", "bits": 4, "group_size": 128 });
    let mut awq = published("Llama-3.2-1B-Instruct");
    awq["quantization_config"] = quantised;
    for (name, json, reason) in [
        ("Llama-3.2-1B-AWQ", awq, "the checkpoint in bf16, f16 or f32"),
        (
            "gemma-3-4b-it",
            json!({ "model_type": "gemma3", "text_config": {} }),
            "a model with images",
        ),
        ("gemma-2-2b", json!({ "model_type": "gemma2", "hidden_size": 2304 }), "gemma3_text"),
        (
            "Qwen3-30B-A3B",
            json!({ "model_type": "qwen3_moe", "num_experts": 128 }),
            "mixtures of experts",
        ),
        ("Mixtral-8x7B-v0.1", json!({ "model_type": "mixtral" }), "mixtures of experts"),
        ("Phi-3-mini-4k-instruct", json!({ "model_type": "phi3" }), "\"phi3\", which is not"),
    ] {
        let error = ModelFolder::new(json).unwrap_err().to_string();
        assert!(error.contains(reason), "{name}: {error}");
    }
}

#[test]
fn end_tokens_are_those_of_the_published_generation_settings() {
    let folder = tempfile::tempdir().unwrap();
    for (name, generation, ends) in [
        (
            "Qwen2.5-0.5B-Instruct",
            json!({
                "bos_token_id": 151643, "pad_token_id": 151643, "do_sample": true, "eos_token_id": [151645, 151643],
                "repetition_penalty": 1.1, "temperature": 0.7, "top_p": 0.8, "top_k": 20,
            }),
            vec![151_643, 151_645],
        ),
        (
            "gemma-3-1b-it",
            json!({
                "bos_token_id": 2, "cache_implementation": "hybrid", "do_sample": true, "eos_token_id": [1, 106],
                "pad_token_id": 0, "top_k": 64, "top_p": 0.95,
            }),
            vec![1, 106],
        ),
        (
            "gpt2",
            json!({ "_from_model_config": true, "bos_token_id": 50256, "eos_token_id": 50256 }),
            vec![50_256],
        ),
        (
            "Mistral-7B-Instruct-v0.3",
            json!({ "_from_model_config": true, "eos_token_id": 2 }),
            vec![2],
        ),
    ] {
        std::fs::write(folder.path().join("config.json"), published(name).to_string()).unwrap();
        let path = folder.path().join("generation_config.json");
        std::fs::write(path, generation.to_string()).unwrap();
        let stop = ModelFolder::open(folder.path()).unwrap().stop().clone();
        assert_eq!(stop.into_iter().collect::<Vec<_>>(), ends, "{name}");
    }
}

#[test]
fn an_index_as_published_names_the_file_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let json = published("Qwen2.5-7B-Instruct with YaRN");
    std::fs::write(folder.path().join("config.json"), json.to_string()).unwrap();
    // As in the published index: a layer may begin in one file and end in the next.
    let shard = |layer: usize| format!("model-{:05}-of-00004.safetensors", 1 + layer / 8);
    let parts = ["self_attn.q_proj.bias", "self_attn.q_proj.weight", "mlp.gate_proj.weight"];
    let map = (0..28).flat_map(|layer| {
        let name = move |part: &str| format!("model.layers.{layer}.{part}");
        parts.map(|part| (name(part), Value::from(shard(layer))))
    });
    let index = json!({
        "metadata": { "total_size": 15_231_233_024_u64 },
        "weight_map": map.collect::<serde_json::Map<_, _>>(),
    });
    let path = folder.path().join("model.safetensors.index.json");
    std::fs::write(path, index.to_string()).unwrap();
    let opened = ModelFolder::open(folder.path()).unwrap();
    let error = opened.precision().unwrap_err().to_string();
    assert!(error.contains("model-00001-of-00004.safetensors is not there"), "{error}");
}
