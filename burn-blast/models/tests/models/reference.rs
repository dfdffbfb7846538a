//! The models against the transformers library.

use burn::tensor::{DType, Device};
use burn_blast::module::AnyLinear;
use burn_blast::tuning::Strategy;
use burn_blast_models::{
    Error, Form, Generation, Model, ModelFolder, Precision, Windows, generate, perplexity,
};

use safetensors::SafeTensors;

use crate::common::{self, Expected, distance, load, numbers, open};

/// The models that `testdata/make.py` writes.
const MODELS: [&str; 12] = [
    "llama3", "tied", "mistral", "gpt2", "packed", "qwen2", "qwen3", "gemma3", "smollm3", "yarn",
    "dynamic", "longrope",
];

/// Their rotations depend on the length of the text so far. Keys in a cache were rotated for a shorter text, so scores in steps
/// differ from scores at once.
const BY_LENGTH: [&str; 2] = ["dynamic", "longrope"];

impl Expected {
    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.numbers(name, f32::from_le_bytes)
    }

    pub fn double(&self, name: &str) -> f64 {
        self.numbers(name, f64::from_le_bytes)[0]
    }

    /// Single-precision logits, of the file or of the converted model.
    pub fn single(&self) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        self.floats(if file.tensor("logits_f32").is_ok() { "logits_f32" } else { "logits" })
    }
}

/// Share of the largest score by which single-precision scores may differ: a hundred roundings.
pub const SINGLE: f32 = 100.0 * f32::EPSILON / 2.0;

/// The same for bf16, of eight bits: a model rounds after every operation, and in another order.
const BF16: f32 = 8.0 / 256.0;

/// The same for f16, of eleven bits. Qwen 2 adds biases as large as its features, Gemma 3 has twice the norms.
fn f16(name: &str) -> f32 {
    if ["qwen2", "gemma3"].contains(&name) { 16.0 / 2048.0 } else { 8.0 / 2048.0 }
}

/// Scores after every token of both texts, in one pass.
pub fn at_once(model: &Model, texts: &[Vec<u32>; 2]) -> Vec<f32> {
    numbers(model.forward(model.tokens(&[&texts[0], &texts[1]]), None))
}

/// The same with a cache: some tokens at once, then some more, then one by one.
pub fn in_steps(model: &Model, texts: &[Vec<u32>; 2]) -> Vec<f32> {
    let length = texts[0].len();
    let mut cuts = vec![0, 7, 12];
    cuts.extend(13..=length);
    let mut cache = model.cache();
    let steps = cuts.windows(2).map(|cut| {
        let part = |text: &Vec<u32>| text[cut[0]..cut[1]].to_vec();
        let (first, second) = (part(&texts[0]), part(&texts[1]));
        model.forward(model.tokens(&[&first, &second]), Some(&mut cache))
    });
    let logits = burn::tensor::Tensor::cat(steps.collect(), 1);
    assert_eq!(cache.len(), length);
    numbers(logits)
}

/// Every dense linear layer packed, with all blocks that hold anything.
pub fn pack_all(mut model: Model, block: usize) -> Model {
    for (_, linear) in model.linears_mut() {
        if let AnyLinear::Dense(_) = linear {
            linear.pack(block).unwrap();
        }
    }
    model
}

/// Chooses between the kernels of every block-sparse layer.
fn set(model: &mut Model, strategy: Strategy) {
    for (_, linear) in model.linears_mut() {
        if let AnyLinear::Sparse(layer) = linear {
            *layer = layer.clone().with_strategy(strategy);
        }
    }
}

fn check(model: &Model, name: &str, expected: &[f32], limit: f32) {
    let texts = Expected::of(name).texts();
    let mut ways = vec![("at once", at_once(model, &texts))];
    if !BY_LENGTH.contains(&name) {
        ways.push(("in steps", in_steps(model, &texts)));
    }
    for (way, found) in ways {
        let apart = distance(&found, expected);
        assert!(apart <= limit, "{name} {way}: {apart} apart, {limit} allowed");
    }
}

#[test]
fn scores_are_those_of_transformers() {
    for name in MODELS {
        check(&load(name, Precision::F32), name, &Expected::of(name).single(), SINGLE);
    }
}

#[test]
fn packed_at_full_density_they_are_the_same() {
    for name in MODELS {
        let mut model = pack_all(load(name, Precision::F32), 8);
        for strategy in [Strategy::Auto, Strategy::Sparse, Strategy::Dense] {
            set(&mut model, strategy);
            check(&model, name, &Expected::of(name).single(), SINGLE);
        }
    }
}

#[test]
fn a_cache_grows_with_its_text() {
    let model = load("llama3", Precision::F32);
    let text = |step: u32| (0..100).map(|at| at * step % 300).collect::<Vec<_>>();
    let texts = [text(7), text(11)];
    let apart = distance(&in_steps(&model, &texts), &at_once(&model, &texts));
    assert!(apart <= SINGLE, "{apart} apart, {SINGLE} allowed");
}

#[test]
fn half_precision_comes_close() {
    let model = load("tied", Precision::File);
    assert_eq!(model.dtype(), DType::BF16);
    check(&model, "tied", &Expected::of("tied").floats("logits"), BF16);
    check(&pack_all(model, 16), "tied", &Expected::of("tied").floats("logits"), BF16);
    for name in MODELS {
        check(&load(name, Precision::F16), name, &Expected::of(name).single(), f16(name));
    }
}

#[test]
fn greedy_texts_are_those_of_transformers() {
    for name in MODELS {
        let (checkpoint, expected) = (open(name), Expected::of(name));
        for model in [load(name, Precision::F32), pack_all(load(name, Precision::F32), 16)] {
            let greedy = expected.ids("greedy");
            let request = Generation::new(&checkpoint, greedy.len());
            let mut heard = Vec::new();
            let found = generate(&model, &expected.texts()[0], &request, |token| {
                heard.push(token);
                Ok::<(), Error>(())
            });
            assert_eq!(found.unwrap(), greedy, "{name}");
            assert_eq!(heard, greedy, "{name}");
        }
    }
}

#[test]
fn a_text_ends_before_its_end_token_and_with_the_positions_of_the_model() {
    let (model, expected) = (load("gpt2", Precision::F32), Expected::of("gpt2"));
    let (prompt, greedy) = (&expected.texts()[0], expected.ids("greedy"));
    let mut request = Generation::new(&open("gpt2"), 1000);
    let found = generate::<Error>(&model, prompt, &request, |_| Ok(())).unwrap();
    // The last new token was never read back, so it needs no position.
    assert_eq!(prompt.len() + found.len(), 64 + 1);
    request.stop.insert(greedy[5]);
    let first = greedy.iter().position(|token| *token == greedy[5]).unwrap();
    let found = generate::<Error>(&model, prompt, &request, |_| Ok(())).unwrap();
    assert_eq!(found, greedy[..first]);
}

#[test]
fn a_text_costs_what_it_costs_in_transformers() {
    for name in MODELS {
        let (model, expected) = (load(name, Precision::F32), Expected::of(name));
        let text = &expected.texts()[0];
        let windows = Windows { window: 8, stride: 5 };
        let mut progress = Vec::new();
        let score = perplexity(&model, text, windows, |done| progress.push(done)).unwrap();
        let nats = expected.double("nats");
        assert_eq!(score.tokens, text.len() - 1);
        assert_eq!(progress, [7, 12, 17, 22, 23]);
        assert!((score.nats - nats).abs() < 1e-5 * nats, "{name}: {} and {nats}", score.nats);
    }
}

#[test]
fn the_tokenizer_is_that_of_the_file() {
    let (tokenizer, expected) = (open("llama3").tokenizer().unwrap(), Expected::of("llama3"));
    let text = "The quick brown fox: naïve café 🦙, it's 2024!";
    let tokens = tokenizer.encode(text).unwrap();
    assert_eq!(tokens, expected.ids("text"));
    let mut stream = tokenizer.stream();
    let mut shown: String = tokens.iter().map(|token| stream.push(*token).unwrap()).collect();
    shown += &stream.finish().unwrap();
    assert_eq!(shown, text);
}

#[test]
fn packed_and_dense_layers_mix() {
    let mut model = load("packed", Precision::F32);
    let linears = model.linears_mut();
    let sparse: Vec<&str> = linears
        .iter()
        .filter(|(_, linear)| matches!(linear, AnyLinear::Sparse(_)))
        .map(|(name, _)| name.as_str())
        .collect();
    let expected = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.gate_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
        "lm_head",
    ];
    assert_eq!(sparse, expected);
    for (name, linear) in &linears {
        let is_sparse = expected.contains(&name.as_str());
        assert_eq!(linear.sparsity() > 0.3, is_sparse, "{name}: {}", linear.sparsity());
    }
}

#[test]
fn what_is_saved_loads_as_the_same_function() {
    let device = Device::flex();
    for name in MODELS {
        let (checkpoint, texts) = (open(name), Expected::of(name).texts());
        for precision in [Precision::F32, Precision::BF16] {
            let model = pack_all(load(name, precision), 8);
            let scores = at_once(&model, &texts);
            let scratch = tempfile::tempdir().unwrap();
            for form in [Form::Dense, Form::Packed] {
                let folder = scratch.path().join(format!("{form:?}"));
                checkpoint.save(&model, &folder, form).unwrap();
                let saved = burn_blast_models::ModelFolder::open(&folder).unwrap();
                assert_eq!(saved.config(), checkpoint.config());
                let mut again = saved.load(&device, Precision::File).unwrap();
                assert_eq!(again.dtype(), model.dtype());
                let packed =
                    again.linears_mut().iter().all(|(_, l)| matches!(l, AnyLinear::Sparse(_)));
                assert_eq!(packed, form == Form::Packed);
                let found = at_once(&again, &texts);
                match form {
                    Form::Packed => assert_eq!(found, scores, "{name}"),
                    // Dense products sum in another order.
                    Form::Dense => {
                        let limit = if precision == Precision::F32 { SINGLE } else { BF16 };
                        assert!(distance(&found, &scores) <= limit, "{name}");
                    }
                }
            }
            let left = std::fs::read_dir(scratch.path()).unwrap().count();
            assert_eq!(left, 2, "no temporary folder stays behind");
        }
    }
}

#[test]
fn a_saved_dense_checkpoint_has_the_bytes_it_was_loaded_from() {
    for name in ["llama3", "gpt2"] {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("again");
        open(name).save(&load(name, Precision::File), &folder, Form::Dense).unwrap();
        let read =
            |folder: &std::path::Path| std::fs::read(folder.join("model.safetensors")).unwrap();
        let (ours, theirs) = (read(&folder), read(&common::folder(name)));
        let ours = safetensors::SafeTensors::deserialize(&ours).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&theirs).unwrap();
        assert_eq!(ours.len(), theirs.len());
        for (tensor, view) in theirs.tensors() {
            assert_eq!(ours.tensor(&tensor).unwrap(), view, "{name}: {tensor}");
        }
        assert_eq!(folder.join("tokenizer.json").exists(), name == "llama3");
    }
}

#[test]
fn a_head_of_its_own_counts_in_a_tied_model_and_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let (at, again) = (folder.path().join("at"), folder.path().join("again"));
    let mut untied = load("llama3", Precision::F32);
    let texts = Expected::of("llama3").texts();
    let scores = at_once(&untied, &texts);
    open("llama3").save(&untied, &at, Form::Dense).unwrap();
    let set = |tied: bool| {
        let path = at.join("config.json");
        let mut config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["tie_word_embeddings"] = tied.into();
        std::fs::write(path, config.to_string()).unwrap();
    };
    set(true);
    let checkpoint = ModelFolder::open(&at).unwrap();
    let model = checkpoint.load(&Device::flex(), Precision::F32).unwrap();
    assert_eq!(at_once(&model, &texts), scores);
    checkpoint.save(&model, &again, Form::Dense).unwrap();
    let saved = ModelFolder::open(&again).unwrap();
    assert!(!saved.config().is_tied());
    let model = saved.load(&Device::flex(), Precision::F32).unwrap();
    assert_eq!(at_once(&model, &texts), scores);
    let names = |model: &mut Model| -> Vec<String> {
        model.linears_mut().into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names(&mut model.clone()), names(&mut untied));
}
