//! Damaged checkpoints and bad requests, and what the user reads.

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::Device;
use burn_blast_models::{
    Error, Form, Generation, ModelFolder, Precision, Sampling, Windows, generate, perplexity,
};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::common::{self, Expected, folder, load, open};

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

/// Changes `config.json` of a copy of a model and returns the answer.
fn with_config(model: &str, change: impl Fn(&mut Value)) -> String {
    let folder = copy(model);
    edit(folder.path(), change);
    refusal(folder.path())
}

fn edit(folder: &Path, change: impl Fn(&mut Value)) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
}

type Stored = (Dtype, Vec<usize>, Vec<u8>);

/// Changes the tensors of a copy of a model and returns the answer.
fn with_tensors(model: &str, change: impl Fn(&mut HashMap<String, Stored>)) -> String {
    let folder = copy(model);
    rewrite(folder.path(), change);
    refusal(folder.path())
}

fn rewrite(folder: &Path, change: impl Fn(&mut HashMap<String, Stored>)) {
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: HashMap<String, Stored> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect();
    change(&mut tensors);
    let view = |(dtype, shape, data): &Stored| TensorView::new(*dtype, shape.clone(), data).is_ok();
    assert!(tensors.values().all(view));
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

const UP: &str = "model.layers.1.mlp.up_proj.weight";

#[test]
fn missing_files_are_named() {
    let folder = copy("llama3");
    for file in ["model.safetensors", "expected.safetensors"] {
        std::fs::remove_file(folder.path().join(file)).unwrap();
    }
    let error = refusal(folder.path());
    assert!(error.contains("holds no safetensors file"), "{error}");
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    let error = refusal(folder.path());
    assert!(error.starts_with("there is no ") && error.contains("config.json:"), "{error}");
}

#[test]
fn missing_and_damaged_parts_are_named() {
    let folder = copy("tied");
    let index = folder.path().join("model.safetensors.index.json");
    let json: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    let parts: Vec<&Value> = json["weight_map"].as_object().unwrap().values().collect();
    let part = parts[0].as_str().unwrap();
    assert!(parts.iter().any(|other| *other != part), "the model is in several parts");
    let bytes = std::fs::read(folder.path().join(part)).unwrap();
    std::fs::write(folder.path().join(part), &bytes[..bytes.len() - 1]).unwrap();
    let error = refusal(folder.path());
    assert!(error.contains(part) && error.contains("truncated"), "{error}");
    std::fs::remove_file(folder.path().join(part)).unwrap();
    let error = refusal(folder.path());
    assert!(error.contains(part), "{error}");
    std::fs::write(&index, "{}").unwrap();
    let error = refusal(folder.path());
    assert!(error.contains("weight_map"), "{error}");
}

#[test]
fn a_tensor_in_two_parts_is_named() {
    let folder = copy("tied");
    let index = folder.path().join("model.safetensors.index.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    let part = json["weight_map"]["model.norm.weight"].as_str().unwrap().to_string();
    std::fs::copy(folder.path().join(part), folder.path().join("twice.safetensors")).unwrap();
    json["weight_map"]["more"] = json!("twice.safetensors");
    std::fs::write(&index, json.to_string()).unwrap();
    let error = refusal(folder.path());
    assert!(error.contains("twice.safetensors"), "{error}");
}

#[test]
fn truncated_and_foreign_files_are_refused() {
    let folder = copy("gpt2");
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 4, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let error = refusal(folder.path());
        assert!(error.contains("model.safetensors"), "{length} bytes: {error}");
    }
    std::fs::write(folder.path().join("config.json"), "{\"model_type\":").unwrap();
    let error = refusal(folder.path());
    assert!(error.contains("config.json: EOF while parsing"), "{error}");
}

#[test]
fn what_is_not_implemented_is_named() {
    let error = with_config("llama3", |config| config["model_type"] = json!("mamba"));
    assert!(
        error.starts_with("model_type is \"mamba\"") && error.contains("\"mistral\""),
        "{error}"
    );
    let error = with_config("mistral", |config| config["sliding_window"] = json!(64));
    assert!(error.contains("sliding_window = 64"), "{error}");
    let error = with_config("llama3", |config| config["hidden_act"] = json!("relu"));
    assert!(error.contains("hidden_act = relu, which is not implemented"), "{error}");
    let error = with_config("llama3", |c| c["rope_parameters"]["rope_type"] = json!("yarn"));
    assert!(error.contains("rope_type = \"yarn\", which is not implemented"), "{error}");
    let error = with_config("llama3", |config| config["quantization_config"] = json!({"bits": 4}));
    assert!(error.contains("use the checkpoint in bf16, f16 or f32"), "{error}");
    let error = with_config("gpt2", |config| config["activation_function"] = json!("relu"));
    assert!(error.contains("activation_function = relu"), "{error}");
    let error = with_config("gpt2", |c| c["scale_attn_by_inverse_layer_idx"] = json!(true));
    assert!(error.contains("scale_attn_by_inverse_layer_idx = true"), "{error}");
    for (setting, found) in [
        ("scale_attn_weights", false),
        ("reorder_and_upcast_attn", true),
        ("add_cross_attention", true),
    ] {
        let error = with_config("gpt2", |config| config[setting] = json!(found));
        let expected = format!("{setting} = {found}, which is not implemented: only {} is", !found);
        assert!(error.contains(&expected), "{error}");
    }
    let error = with_config("llama3", |config| config["partial_rotary_factor"] = json!(0.5));
    assert!(error.contains("partial_rotary_factor = 0.5, which is not implemented"), "{error}");
    let inside =
        |config: &mut Value| config["rope_parameters"]["partial_rotary_factor"] = json!(0.25);
    let error = with_config("llama3", inside);
    assert!(error.contains("partial_rotary_factor = 0.25"), "{error}");
}

#[test]
fn configurations_that_contradict_themselves_are_refused() {
    let error = with_config("llama3", |config| config["num_key_value_heads"] = json!(3));
    assert!(
        error.contains("num_key_value_heads = 3 does not divide num_attention_heads"),
        "{error}"
    );
    let error = with_config("llama3", |config| config["head_dim"] = json!(7));
    assert!(error.contains("2 = 2 does not divide head_dim = 7"), "{error}");
    let error = with_config("llama3", |config| config["num_hidden_layers"] = json!(0));
    assert!(error.contains("num_hidden_layers is 0"), "{error}");
    let error = with_config("llama3", |config| config["rms_norm_eps"] = json!(0.0));
    assert!(error.contains("rms_norm_eps is 0"), "{error}");
    let error = with_config("llama3", |config| config["rope_parameters"]["factor"] = Value::Null);
    assert!(error.contains("rope_type \"llama3\" needs a positive factor"), "{error}");
    let error = with_config("llama3", |c| c["rope_parameters"]["high_freq_factor"] = json!(1.0));
    assert!(error.contains("high_freq_factor must be above low_freq_factor"), "{error}");
    let error = with_config("gpt2", |config| config["n_head"] = json!(5));
    assert!(error.contains("n_head = 5 does not divide n_embd = 32"), "{error}");
    let error = with_config("gpt2", |config| _ = config.as_object_mut().unwrap().remove("n_embd"));
    assert!(error.contains("config.json: missing field `n_embd`"), "{error}");
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let error = with_tensors("llama3", |tensors| _ = tensors.remove(UP));
    assert!(error.contains(&format!("no tensor \"{UP}\"")), "{error}");
    let norm = "model.norm.weight";
    let error = with_tensors("llama3", |tensors| _ = tensors.remove(norm));
    assert!(error.contains("has no tensor \"model.norm.weight\""), "{error}");
    let error = with_tensors("llama3", |tensors| {
        let (dtype, _, data) = tensors[UP].clone();
        tensors.insert(UP.to_string(), (dtype, vec![32, 44], data));
    });
    assert!(error.contains(UP) && error.contains("has shape [32, 44]"), "{error}");
    let error = with_tensors("llama3", |tensors| {
        tensors.insert("model.extra.weight".into(), (Dtype::F32, vec![1], vec![0; 4]));
    });
    assert!(error.contains("a tensor \"model.extra.weight\""), "{error}");
}

#[test]
fn numbers_of_another_type_are_named() {
    let error = with_tensors("llama3", |tensors| {
        tensors.insert(UP.to_string(), (Dtype::I8, vec![44, 32], vec![0; 44 * 32]));
    });
    assert!(error.contains(UP) && error.contains("holds I8"), "{error}");
    let error = with_tensors("llama3", |tensors| {
        tensors.insert(UP.to_string(), (Dtype::F8_E4M3, vec![44, 32], vec![0; 44 * 32]));
    });
    assert!(error.contains("F8"), "{error}");
}

#[test]
fn packed_weights_that_are_none_are_named() {
    let weight = "model.layers.0.mlp.gate_proj.weight";
    let leaf = |leaf: &str| format!("{weight}.{leaf}");
    let error = with_tensors("packed", |tensors| _ = tensors.remove(&leaf("col_ptr")));
    assert!(error.contains(&leaf("col_ptr")), "{error}");
    let error = with_tensors("packed", |tensors| _ = tensors.remove(&leaf("values")));
    assert!(error.contains(&leaf("values")), "{error}");
    let error = with_tensors("packed", |tensors| {
        tensors.get_mut(&leaf("layout")).unwrap().2[0] = 9;
    });
    assert!(error.contains(weight) && error.contains("format version 9"), "{error}");
    let error = with_tensors("packed", |tensors| {
        tensors.get_mut(&leaf("row_idx")).unwrap().2[0] = 200;
    });
    assert!(error.contains("outside the grid"), "{error}");
    let error = with_tensors("packed", |tensors| {
        let (dtype, shape, mut data) = tensors[&leaf("values")].clone();
        data.truncate(data.len() - 8 * 8 * 4);
        tensors.insert(leaf("values"), (dtype, vec![shape[0] - 1, 8, 8], data));
    });
    assert!(error.contains(&leaf("values")), "{error}");
    let error = with_tensors("packed", |tensors| {
        let (_, shape, data) = tensors[&leaf("row_idx")].clone();
        tensors.insert(leaf("row_idx"), (Dtype::F32, shape, data));
    });
    assert!(error.contains(&leaf("row_idx")) && error.contains("F32"), "{error}");
    let error = with_tensors("packed", |tensors| {
        tensors.insert(weight.into(), (Dtype::F32, vec![44, 32], vec![0; 44 * 32 * 4]));
    });
    assert!(error.contains(weight), "{error}");
}

#[test]
fn buffers_and_probes_are_passed_over() {
    let folder = copy("packed");
    rewrite(folder.path(), |tensors| {
        let scalar = (Dtype::F32, vec![1], vec![0; 4]);
        tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), scalar.clone());
        tensors.insert("model.layers.0.mlp.gate_proj.weight.probe".into(), scalar);
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
    let answer = |prompt: &[u32], request: &Generation| {
        generate::<Error>(&model, prompt, request, |_| Ok(())).unwrap_err().to_string()
    };
    assert!(answer(&[], &request).contains("the prompt is empty"));
    let long = answer(&[1; 65], &request);
    assert_eq!(long, "65 tokens do not fit: the model was made for 64 positions");
    let foreign = answer(&[1, 300], &request);
    assert!(foreign.contains("gives token 300, but the model knows 260"), "{foreign}");
    let sampling = Sampling { top_p: 0.0, ..Sampling::GREEDY };
    assert!(answer(&[1], &Generation { sampling, ..request }).starts_with("top-p is 0"));

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
    assert!(
        error.ends_with("exists already: choose another folder, or remove it first"),
        "{error}"
    );
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
