//! Dead hidden features and heads leave a model, and its scores stay.

use std::ops::Range;

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use burn_blast::module::AnyLinear;
use burn_blast_models::{Form, LayerSizes, Model, ModelFolder, Precision};
use serde_json::{Value, json};

use crate::common::distance;
use crate::reference::{SINGLE, at_once, in_steps, pack_all};

const WIDTH: usize = 32;
const HEAD: usize = 8;
const HIDDEN: usize = 48;

/// Eight heads that share four heads of keys.
pub fn llama() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 64, "hidden_size": WIDTH, "intermediate_size": HIDDEN,
        "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": HEAD,
        "tie_word_embeddings": true,
    })
}

pub fn gpt2() -> Value {
    json!({
        "model_type": "gpt2", "vocab_size": 64, "n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 32,
        "n_inner": HIDDEN,
    })
}

pub fn fresh(config: Value) -> (ModelFolder, Model) {
    let checkpoint = ModelFolder::new(config).unwrap();
    let model = checkpoint.config().init_normal(&Device::flex(), 5).unwrap();
    (checkpoint, model)
}

/// Zeros in a part of the dense weight of a layer, and in the same outputs of its bias if `bias`.
fn clear(model: &mut Model, name: &str, rows: Range<usize>, cols: Range<usize>, bias: bool) {
    for (found, linear) in model.linears_mut() {
        let AnyLinear::Dense(layer) = linear else { continue };
        if found.ends_with(name) {
            let weight = layer.weight.val();
            let zeros = Tensor::zeros([rows.len(), cols.len()], &weight.device());
            let weight = weight.slice_assign([rows.clone(), cols.clone()], zeros);
            layer.weight = Param::from_tensor(weight);
            if bias {
                let old = layer.bias.as_ref().expect("the layer has a bias").val();
                let zeros = Tensor::zeros([cols.len()], &old.device());
                layer.bias = Some(Param::from_tensor(old.slice_assign([cols.clone()], zeros)));
            }
        }
    }
}

/// Dead in a layer: keys 1 by their values, one head of each other group, three blocks of hidden features.
fn plant_llama(model: &mut Model, layer: &str) {
    for (name, rows, cols) in [
        ("v_proj", 0..WIDTH, HEAD..2 * HEAD),
        ("o_proj", 0..HEAD, 0..WIDTH),
        ("o_proj", 5 * HEAD..7 * HEAD, 0..WIDTH),
        ("gate_proj", 0..WIDTH, 0..8),
        ("up_proj", 0..WIDTH, 8..16),
        ("down_proj", 40..48, 0..WIDTH),
    ] {
        clear(model, &format!("{layer}{name}"), rows, cols, false);
    }
}

/// Numbers held by the linear layers.
fn held(model: &Model) -> usize {
    let mut copy = model.clone();
    let count = |linear: &AnyLinear| {
        let weight = linear.as_sparse().map(|layer| layer.pattern().value_count());
        weight.unwrap_or_else(|| linear.shape().iter().product())
            + linear.bias().map_or(0, |bias| bias.val().dims()[0])
    };
    copy.linears_mut().into_iter().map(|(_, linear)| count(linear)).sum()
}

fn assert_same(before: &Model, after: &Model) {
    let text: Vec<u32> = (0..20).map(|at| at * 7 % 64).collect();
    let texts = [text.clone(), text];
    for scores in [at_once, in_steps] {
        let apart = distance(&scores(after, &texts), &scores(before, &texts));
        assert!(apart <= SINGLE, "{apart} apart, {SINGLE} allowed");
    }
}

#[test]
fn a_llama_loses_exactly_what_was_planted() {
    let (_, mut model) = fresh(llama());
    let whole = model.sizes()[0];
    assert_eq!(model.clone().compact().sizes(), [whole; 2]);
    plant_llama(&mut model, "0.self_attn.");
    plant_llama(&mut model, "0.mlp.");
    let (heads, hidden) = (5, 24);
    let left = LayerSizes { hidden: HIDDEN - hidden, heads: 8 - heads, kv_heads: 3 };
    for (packed, model) in [(false, model.clone()), (true, pack_all(model, 8))] {
        let compact = model.clone().compact();
        assert_eq!(compact.sizes(), [left, whole]);
        assert_same(&model, &compact);
        // Zero blocks were never packed: three heads of the output projection, the values, and a third of what is
        // dead in each layer of the MLP.
        let zeros = WIDTH * (3 * HEAD + HEAD + hidden);
        let gone =
            WIDTH * (2 * heads * HEAD + 2 * HEAD + 3 * hidden) - if packed { zeros } else { 0 };
        assert_eq!(held(&model) - held(&compact), gone);
        assert_eq!(compact.clone().compact().sizes(), compact.sizes());
    }
}

#[test]
fn a_gpt2_keeps_what_a_bias_keeps_alive() {
    let (_, mut model) = fresh(gpt2());
    for (_, linear) in model.linears_mut() {
        let AnyLinear::Dense(layer) = linear else { unreachable!("nothing is packed yet") };
        layer.bias = layer.bias.take().map(|bias| bias.map(|bias| bias.add_scalar(0.01)));
    }
    let whole = model.sizes()[0];
    // Values and hidden features that are their bias: alive.
    clear(&mut model, "h.0.attn.c_attn", 0..WIDTH, 72..80, false);
    clear(&mut model, "h.0.mlp.c_fc", 0..WIDTH, 16..24, false);
    clear(&mut model, "h.1.attn.c_attn", 0..WIDTH, 64..72, true);
    clear(&mut model, "h.1.attn.c_proj", 16..24, 0..WIDTH, false);
    clear(&mut model, "h.1.mlp.c_fc", 0..WIDTH, 0..8, true);
    clear(&mut model, "h.1.mlp.c_proj", 8..16, 0..WIDTH, false);
    let left = LayerSizes { hidden: HIDDEN - 16, heads: 2, kv_heads: 2 };
    for model in [model.clone(), pack_all(model, 8)] {
        let compact = model.clone().compact();
        assert_eq!(compact.sizes(), [whole, left]);
        assert_same(&model, &compact);
        if let [(_, AnyLinear::Dense(_)), ..] = compact.clone().linears_mut()[..] {
            let features = 2 * HEAD;
            let gone = features * (4 * WIDTH + 3) + 16 * (2 * WIDTH + 1);
            assert_eq!(held(&model) - held(&compact), gone);
        }
    }
}

#[test]
fn blocks_wider_than_a_head_keep_attention_whole() {
    let (_, mut model) = fresh(llama());
    plant_llama(&mut model, "0.self_attn.");
    plant_llama(&mut model, "0.mlp.");
    for (name, linear) in model.linears_mut() {
        if name.contains("attn") {
            linear.pack(16).unwrap();
        }
    }
    let compact = model.clone().compact();
    assert_eq!((compact.sizes()[0].heads, compact.sizes()[0].hidden), (8, 24));
    assert_same(&model, &compact);
}

#[test]
fn equal_layers_are_written_with_their_sizes() {
    for (config, names) in [(llama(), [".self_attn.", ".mlp."]), (gpt2(), ["", ""])] {
        let (checkpoint, mut model) = fresh(config);
        plant_llama(&mut model, names[0]);
        plant_llama(&mut model, names[1]);
        clear(&mut model, "mlp.c_fc", 0..WIDTH, 0..16, true);
        let compact = model.compact();
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("compact");
        checkpoint.save(&compact, &out, Form::Dense).unwrap();
        let again = ModelFolder::open(&out).unwrap();
        let again = again.load(&Device::flex(), Precision::File).unwrap();
        assert_eq!(again.sizes(), compact.sizes());
        assert!(again.sizes()[0].hidden < HIDDEN);
        assert_same(&compact, &again);
    }
}

#[test]
fn layers_of_different_hidden_sizes_are_written_as_a_list() {
    for (config, name, size) in
        [(llama(), "1.mlp.", "intermediate_size"), (gpt2(), "1.mlp.c_", "n_inner")]
    {
        let (checkpoint, mut model) = fresh(config);
        plant_llama(&mut model, name);
        clear(&mut model, "h.1.mlp.c_fc", 0..WIDTH, 0..16, true);
        for (form, model) in [(Form::Dense, model.clone()), (Form::Packed, pack_all(model, 8))] {
            let compact = model.compact();
            assert_ne!(compact.sizes()[0].hidden, compact.sizes()[1].hidden);
            let scratch = tempfile::tempdir().unwrap();
            let [out, twice] = ["compact", "twice"].map(|name| scratch.path().join(name));
            checkpoint.save(&compact, &out, form).unwrap();
            let folder = ModelFolder::open(&out).unwrap();
            let again = folder.load(&Device::flex(), Precision::File).unwrap();
            assert_eq!(again.sizes(), compact.sizes());
            assert_same(&compact, &again);
            folder.save(&again, &twice, form).unwrap();
            let configs = [&out, &twice].map(|folder| {
                let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
                serde_json::from_str::<Value>(&text).unwrap()
            });
            assert_eq!(configs[0], configs[1]);
            let widths: Vec<usize> = compact.sizes().iter().map(|one| one.hidden).collect();
            assert_eq!(configs[0][size], json!(widths));
        }
    }
}

#[test]
fn a_list_of_hidden_sizes_has_one_above_zero_for_each_layer() {
    for (mut config, setting) in [(llama(), "intermediate_size"), (gpt2(), "n_inner")] {
        for (list, part) in [
            (json!([48]), "is a list of 1, but there are 2 layers"),
            (json!([48, 0]), "something else than numbers above 0"),
            (json!([48, "x"]), "something else than numbers above 0"),
        ] {
            config[setting] = list;
            let error = ModelFolder::new(config.clone()).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(setting), "{error}");
        }
    }
}

#[test]
fn sizes_a_configuration_cannot_say_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("compact");
    let refuse = |checkpoint: ModelFolder, model: Model| {
        checkpoint.save(&model.compact(), &out, Form::Packed).unwrap_err().to_string()
    };
    for layer in ["0.self_attn.", "1.self_attn."] {
        let (checkpoint, mut model) = fresh(llama());
        plant_llama(&mut model, layer);
        let error = refuse(checkpoint, model);
        assert!(error.contains("48 hidden features and 3 heads"), "{error}");
        assert!(error.contains("48 hidden features and 8 heads"), "{error}");
        assert!(error.contains("write it before it is compacted"), "{error}");
    }
    let (checkpoint, mut model) = fresh(gpt2());
    clear(&mut model, "attn.c_proj", 16..24, 0..WIDTH, false);
    let error = refuse(checkpoint, model);
    assert!(error.contains("the size of GPT-2's heads follows from their number"), "{error}");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}
