//! Damaged checkpoints and bad requests, and what the user reads.

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::Device;
use burn_blast_models::{
    Error, Form, Generation, ModelFolder, Precision, Windows, generate, perplexity,
};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::common::{self, Expected, folder, load, open};
use crate::reference::at_once;

/// A copy of a model's folder that a test may change.
fn copy(model: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder(model)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

/// What loading a folder is answered with.
fn refusal(folder: &Path) -> String {
    let loaded = ModelFolder::open(folder)
        .and_then(|checkpoint| checkpoint.load(&Device::flex(), Precision::File));
    loaded.expect_err("the folder is damaged").to_string()
}

fn edit(folder: &Path, change: impl Fn(&mut Value)) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
}

type Stored = (Dtype, Vec<usize>, Vec<u8>);
type Tensors = HashMap<String, Stored>;

fn rewrite(folder: &Path, change: impl Fn(&mut Tensors)) {
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let stored = |view: TensorView| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    let mut tensors: Tensors =
        file.tensors().into_iter().map(|(name, view)| (name, stored(view))).collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Changes the tensors of a copy of a model and checks that the answer has these phrases.
fn refused(model: &str, change: fn(&mut Tensors), phrases: &[&str]) {
    let folder = copy(model);
    rewrite(folder.path(), change);
    let error = refusal(folder.path());
    assert!(phrases.iter().all(|phrase| error.contains(phrase)), "{phrases:?}: {error}");
}

#[test]
fn missing_and_damaged_files_are_named() {
    let folder = copy("llama3");
    for file in ["model.safetensors", "expected.safetensors"] {
        std::fs::remove_file(folder.path().join(file)).unwrap();
    }
    let error = refusal(folder.path());
    assert!(error.contains("holds no safetensors file"), "{error}");
    std::fs::write(folder.path().join("config.json"), "{\"model_type\":").unwrap();
    let error = refusal(folder.path());
    assert!(error.contains("config.json: EOF while parsing"), "{error}");
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    let error = refusal(folder.path());
    assert!(error.starts_with("there is no ") && error.contains("config.json:"), "{error}");
}

#[test]
fn missing_damaged_and_repeated_shards_are_named() {
    let folder = copy("tied");
    let file = |name: &str| folder.path().join(name);
    let index = file("model.safetensors.index.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    let shards: Vec<&Value> = json["weight_map"].as_object().unwrap().values().collect();
    let shard = shards[0].as_str().unwrap().to_string();
    assert!(shards.iter().any(|other| **other != shard), "the model is in several shards");
    let bytes = std::fs::read(file(&shard)).unwrap();
    std::fs::write(file(&shard), &bytes[..bytes.len() - 1]).unwrap();
    let error = refusal(folder.path());
    assert!(error.contains(&shard) && error.contains("truncated"), "{error}");
    std::fs::remove_file(file(&shard)).unwrap();
    let error = refusal(folder.path());
    assert!(error.contains(&shard), "{error}");
    for name in [shard.as_str(), "twice.safetensors"] {
        std::fs::write(file(name), &bytes).unwrap();
    }
    json["weight_map"]["more"] = json!("twice.safetensors");
    std::fs::write(&index, json.to_string()).unwrap();
    let error = refusal(folder.path());
    assert!(error.contains("twice.safetensors"), "{error}");
    std::fs::write(&index, "{}").unwrap();
    let error = refusal(folder.path());
    assert!(error.contains("weight_map"), "{error}");
}

#[test]
fn names_are_read_through_wrappers() {
    let expected = Expected::of("llama3");
    let texts = expected.texts();
    let scores = at_once(&load("llama3", Precision::F32), &texts);
    for wrapper in ["_orig_mod.", "module.", "base_model.model.", "module._orig_mod.", "-model."] {
        let folder = copy("llama3");
        let rename = |name: &String| match wrapper.strip_prefix('-') {
            Some(prefix) => name.strip_prefix(prefix).unwrap_or(name).to_owned(),
            None => format!("{wrapper}{name}"),
        };
        rewrite(folder.path(), |tensors| {
            *tensors =
                tensors.iter().map(|(name, stored)| (rename(name), stored.clone())).collect();
        });
        let checkpoint = ModelFolder::open(folder.path()).unwrap();
        let model = checkpoint.load(&Device::flex(), Precision::F32).unwrap();
        assert_eq!(at_once(&model, &texts), scores, "{wrapper}");
    }
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    for name in ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"] {
        let folder = copy("llama3");
        rewrite(folder.path(), |tensors| {
            let (dtype, _, bytes) = tensors.get_mut(name).unwrap();
            let size = dtype.bitsize() / 8;
            // The highest bytes of an element in little-endian order.
            bytes[2 * size - 2..2 * size].copy_from_slice(&[0xff, 0x7f]);
        });
        let error = refusal(folder.path());
        let part = format!("\"{name}\" is infinite or not a number at element 1");
        assert!(error.contains(&part), "{error}");
    }
}

#[test]
fn settings_that_are_not_implemented_or_contradict_each_other_are_named() {
    for (model, setting, value, phrase) in [
        ("llama3", "model_type", json!("mamba"), "model_type = \"mamba\", which"),
        (
            "llama3",
            "quantization_config",
            json!({ "bits": 4 }),
            "the checkpoint in bf16, f16 or f32",
        ),
        ("llama3", "hidden_act", json!("relu"), "hidden_act = \"relu\", which is not implemented"),
        ("llama3", "rope_parameters.rope_type", json!("ntk"), "rope_type = \"ntk\", which is not"),
        ("llama3", "partial_rotary_factor", json!(0.5), "partial_rotary_factor = 0.5, which"),
        ("llama3", "rope_parameters.partial_rotary_factor", json!(0.25), "rotary_factor = 0.25, "),
        ("mistral", "sliding_window", json!(0), "sliding_window = 0, which"),
        ("qwen2", "layer_types", json!(["full_attention"]), "layer_types = null, which"),
        ("qwen3", "layer_types", json!(["chunked", "chunked"]), "layer_types = \"chunked\", which"),
        ("smollm3", "no_rope_layers", json!([1]), "no_rope_layers = [1], which"),
        ("gemma3", "hidden_activation", json!("gelu"), "hidden_activation = \"gelu\", which"),
        ("gemma3", "final_logit_softcapping", json!(30), "final_logit_softcapping = 30, which"),
        ("gemma3", "use_bidirectional_attention", json!(true), "attention = true, which"),
        ("gemma3", "query_pre_attn_scalar", json!(0), "query_pre_attn_scalar is not a positive"),
        ("gemma3", "model_type", json!("gemma3"), "only its text model is"),
        ("yarn", "rope_parameters.factor", json!(-1), "\"yarn\" needs a positive factor"),
        ("gpt2", "activation_function", json!("relu"), "activation_function = \"relu\", which"),
        ("gpt2", "scale_attn_by_inverse_layer_idx", json!(true), "layer_idx = true, which"),
        ("gpt2", "scale_attn_weights", json!(false), "scale_attn_weights = false, which"),
        ("gpt2", "reorder_and_upcast_attn", json!(true), "reorder_and_upcast_attn = true, which"),
        ("gpt2", "add_cross_attention", json!(true), "add_cross_attention = true, which"),
        ("llama3", "num_key_value_heads", json!(3), "= 3 does not divide num_attention_heads"),
        ("llama3", "head_dim", json!(7), "2 = 2 does not divide head_dim = 7"),
        ("llama3", "num_hidden_layers", json!(0), "num_hidden_layers is 0"),
        ("llama3", "rms_norm_eps", json!(0.0), "rms_norm_eps is 0"),
        ("llama3", "rope_parameters.factor", Value::Null, "\"llama3\" needs a positive factor"),
        ("llama3", "rope_parameters.high_freq_factor", json!(1.0), "above low_freq_factor"),
        ("gpt2", "n_head", json!(5), "n_head = 5 does not divide n_embd = 32"),
    ] {
        let folder = copy(model);
        edit(folder.path(), |config| {
            *setting.split('.').fold(config, |json, name| &mut json[name]) = value.clone();
        });
        let error = refusal(folder.path());
        assert!(error.contains(phrase), "{error}");
    }
    let folder = copy("gpt2");
    edit(folder.path(), |config| _ = config.as_object_mut().unwrap().remove("n_embd"));
    let error = refusal(folder.path());
    assert!(error.contains("config.json: missing field `n_embd`"), "{error}");
}

const UP: &str = "model.layers.1.mlp.up_proj.weight";

#[test]
fn tensors_that_do_not_fit_are_named() {
    refused("llama3", |all| _ = all.remove(UP), &["no tensor", UP]);
    refused(
        "llama3",
        |all| _ = all.remove("model.norm.weight"),
        &["no tensor \"model.norm.weight\""],
    );
    refused("llama3", |all| all.get_mut(UP).unwrap().1.reverse(), &[UP, "has shape [32, 44]"]);
    let extra = |all: &mut Tensors| {
        all.insert("model.extra.weight".into(), (Dtype::F32, vec![1], vec![0; 4]));
    };
    refused("llama3", extra, &["a tensor \"model.extra.weight\""]);
    let integers = |all: &mut Tensors| {
        all.insert(UP.into(), (Dtype::I8, vec![44, 32], vec![0; 44 * 32]));
    };
    refused("llama3", integers, &[UP, "holds I8"]);
    let eighths = |all: &mut Tensors| {
        all.insert(UP.into(), (Dtype::F8_E4M3, vec![44, 32], vec![0; 44 * 32]));
    };
    refused("llama3", eighths, &["F8"]);
}

const GATE: &str = "model.layers.0.mlp.gate_proj.weight";

/// A tensor of the packed weight.
fn part<'a>(all: &'a mut Tensors, leaf: &str) -> &'a mut Stored {
    all.get_mut(&format!("{GATE}.{leaf}")).unwrap()
}

#[test]
fn packed_weights_that_are_none_are_named() {
    for leaf in ["col_ptr", "values"] {
        let (folder, name) = (copy("packed"), format!("{GATE}.{leaf}"));
        rewrite(folder.path(), |all| _ = all.remove(&name));
        let error = refusal(folder.path());
        assert!(error.contains(&name), "{error}");
    }
    refused("packed", |all| part(all, "layout").2[0] = 9, &[GATE, "format version 9"]);
    refused("packed", |all| part(all, "row_idx").2[0] = 200, &["outside the grid"]);
    refused("packed", |all| part(all, "row_idx").0 = Dtype::F32, &[GATE, ".row_idx", "F32"]);
    let shorter = |all: &mut Tensors| {
        let (_, shape, data) = part(all, "values");
        shape[0] -= 1;
        data.truncate(data.len() - 8 * 8 * 4);
    };
    refused("packed", shorter, &[GATE, ".values"]);
    let dense = |all: &mut Tensors| {
        all.insert(GATE.into(), (Dtype::F32, vec![44, 32], vec![0; 44 * 32 * 4]));
    };
    refused("packed", dense, &[GATE]);
}

#[test]
fn buffers_and_probes_are_passed_over() {
    let folder = copy("packed");
    rewrite(folder.path(), |all| {
        let scalar = (Dtype::F32, vec![1], vec![0; 4]);
        all.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), scalar.clone());
        all.insert(format!("{GATE}.probe"), scalar);
    });
    let checkpoint = ModelFolder::open(folder.path()).unwrap();
    assert!(checkpoint.load(&Device::flex(), Precision::File).is_ok());
}

#[test]
fn the_older_spelling_of_scaling_means_the_same() {
    let folder = copy("llama3");
    edit(folder.path(), |config| {
        let mut scaling = config["rope_parameters"].take();
        config["rope_theta"] = scaling["rope_theta"].take();
        // Some files have both names.
        scaling["type"] = scaling["rope_type"].clone();
        let keys = config.as_object_mut().unwrap();
        keys.remove("rope_parameters");
        keys.insert("rope_scaling".into(), scaling);
    });
    let older = ModelFolder::open(folder.path()).unwrap();
    assert_eq!(older.config(), open("llama3").config());
}

#[test]
fn the_first_gpt2_checkpoints_load() {
    let folder = copy("gpt2");
    rewrite(folder.path(), |tensors| {
        let short = |name: &str| name.trim_start_matches("transformer.").to_string();
        *tensors = tensors.drain().map(|(name, stored)| (short(&name), stored)).collect();
        let mask = (Dtype::F32, vec![1, 1, 64, 64], vec![0; 64 * 64 * 4]);
        tensors.insert("h.0.attn.bias".into(), mask);
    });
    let expected = Expected::of("gpt2");
    let model = ModelFolder::open(folder.path()).unwrap();
    let model = model.load(&Device::flex(), Precision::File).unwrap();
    let text = &expected.texts()[0];
    let found = common::numbers(model.forward(model.tokens(&[text]), None));
    let expected = expected.floats("logits");
    assert!(common::distance(&found, &expected[..found.len()]) < 1e-5);
}

#[test]
fn requests_that_cannot_be_met_are_refused() {
    let model = load("gpt2", Precision::F32);
    let request = Generation::new(&open("gpt2"), 4);
    let answer = |prompt: &[u32]| {
        generate::<Error>(&model, prompt, &request, |_| Ok(())).unwrap_err().to_string()
    };
    assert!(answer(&[]).contains("the prompt is empty"));
    let long = answer(&[1; 65]);
    assert_eq!(long, "65 tokens do not fit: the model was made for 64 positions");
    let foreign = answer(&[1, 300]);
    assert!(
        foreign.contains("gives token 300, but the model knows only those below 260"),
        "{foreign}"
    );

    let answer = |text: &[u32], window, stride| {
        let windows = Windows { window, stride };
        perplexity(&model, text, windows, |_| ()).unwrap_err().to_string()
    };
    assert_eq!(answer(&[1, 2], 1, 1), "window is 1, but must be at least 2");
    let stride = answer(&[1, 2], 8, 8);
    assert_eq!(stride, "stride is 8, but must be at least 1 and below the window");
    assert!(answer(&[1], 8, 4).contains("the text has 1 tokens, but needs at least 2"));
    assert!(answer(&[1, 999], 8, 4).contains("gives token 999"));
}

#[test]
fn a_folder_that_exists_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let answer = open("gpt2").save(&load("gpt2", Precision::F32), folder.path(), Form::Dense);
    let error = answer.unwrap_err().to_string();
    assert!(error.contains("is already there"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_damaged_tokenizer_is_refused() {
    let folder = copy("llama3");
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    let checkpoint = ModelFolder::open(folder.path()).unwrap();
    let error = checkpoint.tokenizer().unwrap_err().to_string();
    assert!(error.starts_with("tokenizer: "), "{error}");
}

#[test]
fn end_tokens_come_from_the_generation_settings_first() {
    let folder = copy("gpt2");
    edit(folder.path(), |config| config["eos_token_id"] = json!([3, 4]));
    let settings = folder.path().join("generation_config.json");
    std::fs::write(&settings, "{}").unwrap();
    let stop = |folder: &Path| ModelFolder::open(folder).unwrap().stop().clone();
    assert_eq!(stop(folder.path()), [3, 4].into());
    std::fs::write(&settings, "{\"eos_token_id\": 7}").unwrap();
    assert_eq!(stop(folder.path()), [7].into());
}
