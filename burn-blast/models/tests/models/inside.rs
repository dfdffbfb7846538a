//! What one can see of a model while it runs, and models that are not trained yet.

use burn::tensor::Device;
use burn_blast_models::{Model, ModelFolder};
use serde_json::{Value, json};

fn configs() -> [Value; 2] {
    let llama = json!({
        "model_type": "llama", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    });
    let gpt2 = json!({
        "model_type": "gpt2", "vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32,
    });
    [llama, gpt2]
}

fn model(config: Value) -> Model {
    ModelFolder::new(config).unwrap().config().init_normal(&Device::flex(), 5).unwrap()
}

#[test]
fn a_trace_has_every_layer_and_the_scores_of_a_forward_pass() {
    for config in configs() {
        let model = model(config);
        let tokens = model.tokens(&[&[1, 2, 3, 4], &[9, 8, 7, 6]]);
        let (features, logits) = model.trace(tokens.clone());
        assert_eq!(features.len(), model.layers());
        assert!(features.iter().all(|one| one.dims() == [2, 4, 16]));
        assert_eq!(logits.into_data(), model.forward(tokens, None).into_data());
    }
}

#[test]
fn a_witness_hears_every_layer_of_the_mlps_in_order() {
    for config in configs() {
        let mut model = model(config);
        // Block-sparse ones are heard too, although they would run as one.
        for (_, linear) in model.mlps_mut(1) {
            linear.pack(8).unwrap();
        }
        let tokens = model.tokens(&[&[1, 2, 3]]);
        let mut heard = Vec::new();
        model.observe(tokens, &mut |name, input| heard.push((name.to_string(), input.dims()[2])));
        let all = model.mlps_mut(0).into_iter();
        let expected: Vec<_> = all.map(|(name, linear)| (name, linear.shape()[0])).collect();
        assert_eq!(heard, expected);
        assert_eq!(model.mlps_mut(1).len(), expected.len() / 2);
        assert!(model.mlps_mut(2).is_empty());
    }
}

#[test]
fn a_fresh_model_has_narrow_matrices_and_can_be_saved() {
    for config in configs() {
        let checkpoint = ModelFolder::new(config).unwrap();
        let mut model = checkpoint.config().init_normal(&Device::flex(), 5).unwrap();
        for (name, linear) in model.linears_mut() {
            let square = linear.to_dense().square().mean().into_scalar::<f32>();
            assert!((0.01..0.04).contains(&square.sqrt()), "{name}: {}", square.sqrt());
        }
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("model");
        checkpoint.save(&model, &out, burn_blast_models::Form::Dense).unwrap();
        let again =
            ModelFolder::open(&out).unwrap().load(&Device::flex(), Default::default()).unwrap();
        let tokens = model.tokens(&[&[1, 2, 3]]);
        let scores = model.forward(tokens.clone(), None).into_data();
        assert_eq!(again.forward(tokens, None).into_data(), scores);
    }
}
