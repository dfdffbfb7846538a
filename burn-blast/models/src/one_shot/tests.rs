use burn::module::Param;
use burn::nn;

use super::*;
use crate::fine_tune::tests::{config, corpus};
use crate::{ModelConfig, fine_tune};

#[test]
fn every_method_removes_its_share_and_least_squares_stays_closest() {
    let (device, mut config) = (Device::flex(), config());
    config["hidden_size"] = 32.into();
    config["intermediate_size"] = 64.into();
    let dense = ModelConfig::parse(&config).unwrap().init_normal(&device, 2).unwrap();
    // Least squares is about texts like the sample.
    let like: Vec<u32> = b"the lazy fox jumps over a brown dog".map(u32::from).to_vec();
    let tokens = dense.tokens(&[&like]);
    let (features, _) = dense.trace(tokens.clone());
    let mut distances = Vec::new();
    for method in [Method::Magnitude, Method::Wanda, Method::WandaCorrected] {
        let sample = match method {
            Method::Magnitude => Vec::new(),
            _ => sample(&corpus(), 8, 32, 8, &device).unwrap(),
        };
        let mut sparse = dense.clone();
        let blocks = Blocks::new(8).with_sparsity(0.5).with_dense_last(1);
        let one_shot = OneShot::new(blocks).with_method(method);
        one_shot.run(&mut sparse, &sample, |_, _| {}).unwrap();
        let all = sparse.mlps_mut(0).into_iter().map(|(_, linear)| linear.sparsity());
        assert_eq!(all.collect::<Vec<_>>(), [0.5, 0.5, 0.5, 0.0, 0.0, 0.0], "{method:?}");
        let (ours, _) = sparse.trace(tokens.clone());
        let distance = fine_tune::hidden_states(ours, features.clone());
        distances.push(distance.into_scalar::<f32>());
    }
    assert!(distances[2] < distances[0] && distances[2] < distances[1], "{distances:?}");
}

#[test]
fn features_that_are_carried_on_are_those_of_a_whole_pass() {
    let gpt2 = serde_json::json!({
        "model_type": "gpt2", "vocab_size": 256, "n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 64,
    });
    for config in [config(), gpt2] {
        let device = Device::flex();
        let model = ModelConfig::parse(&config).unwrap().init_normal(&device, 2).unwrap();
        let text: Vec<u32> = b"the lazy fox".map(u32::from).to_vec();
        let tokens = model.tokens(&[&text]);
        let (whole, _) = model.trace(tokens.clone());
        let mut x = model.embed(tokens.clone());
        let mut inputs = Vec::new();
        for (index, expected) in whole.iter().enumerate() {
            x = model.attend(index, x);
            inputs.extend(model.family().mlp_inputs(index, x.clone()));
            x = model.feed(index, x);
            assert_eq!(x.to_data(), expected.to_data(), "layer {index}");
        }
        let mut at_once = Vec::new();
        model.observe(tokens, &mut |name, input| {
            // It takes what the gate takes.
            if !name.ends_with("up_proj") {
                at_once.push(input);
            }
        });
        assert_eq!(inputs.len(), at_once.len());
        for (input, other) in inputs.iter().zip(&at_once) {
            assert_eq!(input.to_data(), other.to_data());
        }
    }
}

/// The tensors of a folder, by name, and its configuration.
fn content(folder: &Path) -> (Vec<(String, Vec<u8>)>, String) {
    let checkpoint = burn_blast_checkpoint::Checkpoint::open(folder).unwrap();
    let bytes = |name: &str| checkpoint.tensor(name).unwrap().bytes().to_vec();
    let all = checkpoint.names().into_iter().map(|name| (name.to_owned(), bytes(name)));
    (all.collect(), std::fs::read_to_string(folder.join("config.json")).unwrap())
}

#[test]
fn part_by_part_the_files_hold_the_same() {
    let device = Device::flex();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    for (name, precision) in [
        ("llama3", Precision::F32),
        ("tied", Precision::F32),
        ("gemma3", Precision::F32),
        ("gpt2", Precision::F32),
        ("packed", Precision::F32),
        ("tied", Precision::BF16),
    ] {
        let folder = ModelFolder::open(models.join(name)).unwrap();
        let sample = sample(&corpus(), 3, 16, 8, &device).unwrap();
        for method in [Method::Magnitude, Method::WandaCorrected] {
            let blocks = Blocks::new(8).with_sparsity(0.5).with_dense_last(1);
            let one_shot = OneShot::new(blocks).with_method(method);
            let scratch = tempfile::tempdir().unwrap();
            let [whole, parts] = ["whole", "parts"].map(|name| scratch.path().join(name));
            let mut model = folder.load(&device, precision).unwrap();
            one_shot.run(&mut model, &sample, |_, _| {}).unwrap();
            let model = model.with_precision(folder.precision().unwrap()).unwrap();
            folder.save(&model, &whole, crate::Form::Packed).unwrap();
            let to = Destination {
                folder: &parts,
                replace: false,
                device: device.clone(),
                precision,
                written: Precision::File,
            };
            let mut steps = Vec::new();
            let silent = one_shot.stream(&folder, &sample, &to, |done, _| steps.push(done));
            assert!(silent.unwrap().is_empty());
            assert_eq!(steps, (0..steps.len()).collect::<Vec<_>>());
            let (found, expected) = (content(&parts), content(&whole));
            assert_eq!(found.1, expected.1, "{name}");
            let names = |all: &[(String, Vec<u8>)]| -> Vec<String> {
                all.iter().map(|(name, _)| name.clone()).collect()
            };
            assert_eq!(names(&found.0), names(&expected.0), "{name}");
            assert!(found.0 == expected.0, "{name}, {method:?}");
            let again = ModelFolder::open(&parts).unwrap().load(&device, precision).unwrap();
            let tokens = again.tokens(&[&[1, 2, 3, 4]]);
            let scores = model.with_precision(precision).unwrap().forward(tokens.clone(), None);
            assert_eq!(again.forward(tokens, None).to_data(), scores.to_data(), "{name}");
        }
    }
}

#[test]
fn a_layer_that_the_settings_do_not_have_is_named() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/llama3");
    let scratch = tempfile::tempdir().unwrap();
    let (at, out) = (scratch.path().join("at"), scratch.path().join("out"));
    std::fs::create_dir(&at).unwrap();
    let weights = "model.safetensors";
    std::fs::copy(models.join(weights), at.join(weights)).unwrap();
    let config = std::fs::read_to_string(models.join("config.json")).unwrap();
    let config = config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    std::fs::write(at.join("config.json"), config).unwrap();
    let to = Destination {
        folder: &out,
        replace: false,
        device: Device::flex(),
        precision: Precision::F32,
        written: Precision::File,
    };
    let one_shot = OneShot::new(Blocks::new(8)).with_method(Method::Magnitude);
    let folder = ModelFolder::open(&at).unwrap();
    let error = one_shot.stream(&folder, &[], &to, |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("model.layers.1."), "{error}");
    assert!(!out.exists());
}

#[test]
fn zero_blocks_are_removed_and_a_dead_mlp_does_not_stop_the_run() {
    let device = Device::flex();
    let start = ModelConfig::parse(&config()).unwrap().init_normal(&device, 2).unwrap();
    let sample = sample(&corpus(), 4, 16, 8, &device).unwrap();
    for method in [Method::Magnitude, Method::Wanda, Method::WandaCorrected] {
        let mut model = start.clone();
        let half = OneShot::new(Blocks::new(8).with_sparsity(0.5).with_dense_last(1));
        half.with_method(Method::Magnitude).run(&mut model, &[], |_, _| {}).unwrap();
        for (name, linear) in model.mlps_mut(0) {
            if name == "model.layers.1.mlp.gate_proj" {
                *linear = AnyLinear::Dense(nn::Linear {
                    weight: Param::from_tensor(Tensor::zeros(linear.shape(), &device)),
                    bias: None,
                });
            }
        }
        let mut steps = Vec::new();
        let little = OneShot::new(Blocks::new(8).with_sparsity(0.25)).with_method(method);
        let silent = little.run(&mut model, &sample, |done, all| steps.push((done, all)));
        let silent = silent.unwrap();
        let expected: &[&str] = match method {
            Method::Magnitude => &[],
            _ => &["model.layers.1.mlp.down_proj"],
        };
        assert_eq!(silent, expected, "{method:?}");
        let all = model.mlps_mut(0).into_iter().map(|(_, linear)| linear.sparsity());
        assert_eq!(all.collect::<Vec<_>>(), [0.5, 0.5, 0.5, 1.0, 0.25, 0.25], "{method:?}");
        assert_eq!(steps, (0..=6).map(|done| (done, 6)).collect::<Vec<_>>());
    }
}

#[test]
fn the_sample_has_as_many_sequences_as_were_asked_for() {
    for sequences in [3, 8, 12] {
        let sample = sample(&corpus(), sequences, 32, 8, &Device::flex()).unwrap();
        let found: usize = sample.iter().map(|batch| batch.inputs.dims()[0]).sum();
        assert_eq!(found, sequences);
    }
}

/// The groups of 8 hidden features that each layer of an MLP has blocks in.
fn groups_of(model: &mut Model) -> Vec<Vec<(usize, usize)>> {
    let out = model.family().mlp_layers().1;
    let layers = model.mlps_mut(0).into_iter().map(|(name, linear)| {
        let pattern = linear.as_sparse().unwrap().pattern();
        let reads = name.ends_with(out);
        let cols = pattern.col_ptr().windows(2).enumerate();
        let blocks = cols.flat_map(|(col, ends)| {
            let rows = &pattern.row_idx()[ends[0] as usize..ends[1] as usize];
            rows.iter().map(move |row| (*row as usize, col))
        });
        let mut groups = std::collections::BTreeMap::new();
        blocks
            .for_each(|(row, col)| *groups.entry(if reads { row } else { col }).or_insert(0) += 1);
        groups.into_iter().collect()
    });
    layers.collect()
}

#[test]
fn whole_groups_are_removed_and_sorting_changes_nothing() {
    let device = Device::flex();
    let gpt2 = serde_json::json!({
        "model_type": "gpt2", "vocab_size": 256, "n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 64,
        "n_inner": 44,
    });
    for (config, groups) in [(config(), 8), (gpt2, 12)] {
        let dense = ModelConfig::parse(&config).unwrap().init(&device, 2).unwrap();
        let sample = sample(&corpus(), 4, 16, 1, &device).unwrap();
        let tokens = dense.tokens(&[b"the lazy fox".map(u32::from).as_slice()]);
        let before = dense.forward(tokens.clone(), None);
        for sparsity in [0.0, 0.3, 0.5, 0.9] {
            let mut cut = dense.clone();
            let one_shot = OneShot::new(Blocks::new(8).with_sparsity(sparsity));
            let one_shot = one_shot.with_method(Method::Taylor);
            let mut ticks = Vec::new();
            one_shot.run(&mut cut, &sample, |done, all| ticks.push((done, all))).unwrap();
            assert_eq!(ticks.first().unwrap().0, 0);
            assert!(ticks.last().is_some_and(|(done, all)| done == all));
            if sparsity == 0.0 {
                let apart = (cut.forward(tokens.clone(), None) - before.clone()).abs().max();
                assert!(apart.into_scalar::<f32>() < 1e-4);
            }
            let found = groups_of(&mut cut);
            // Layers of one MLP have the same whole groups, the first ones.
            let per_layer = found.len() / 2;
            let mut kept = 0;
            for mlp in found.chunks(per_layer) {
                let names: Vec<usize> = mlp[0].iter().map(|(group, _)| *group).collect();
                assert_eq!(names, (0..names.len()).collect::<Vec<_>>());
                for layer in mlp {
                    assert!(layer.iter().map(|(group, _)| *group).eq(names.iter().copied()));
                    assert!(layer.iter().all(|(_, blocks)| *blocks == 2), "{layer:?}");
                }
                assert!(!names.is_empty());
                kept += names.len();
            }
            assert_eq!(kept, kept_blocks(sparsity, groups).max(2), "{sparsity}");
        }
    }
}

#[test]
fn gradients_are_not_taken_of_parts() {
    let one_shot = OneShot::new(Blocks::new(8)).with_method(Method::Taylor);
    let folder = tempfile::tempdir().unwrap();
    let to = Destination {
        folder: &folder.path().join("out"),
        replace: false,
        device: Device::flex(),
        precision: Precision::F32,
        written: Precision::File,
    };
    let sample = sample(&corpus(), 1, 8, 1, &Device::flex()).unwrap();
    let dense = ModelFolder::new(config()).unwrap();
    let error = one_shot.stream(&dense, &sample, &to, |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("method is taylor, but must be magnitude"), "{error}");
}
