//! From dense to packed and back, against naive code: which blocks, which bits, which files.

use std::collections::BTreeMap;
use std::fs;

use safetensors::Dtype;
use serde_json::json;

use crate::common::*;

const BLOCK: usize = 16;

fn is_mlp(name: &str) -> bool {
    name.contains(".mlp.") && name.ends_with(".weight")
}

/// Holds every tensor of `after` against the naive result of pruning `before` to a quarter; how many blocks stay.
fn check(
    before: &Tensors,
    after: &Tensors,
    family: Family,
    norms: Option<&Tensors>,
) -> BTreeMap<String, usize> {
    let out_in = family == Family::Llama;
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    let (mut pruned, mut moved) = (BTreeMap::new(), 0);
    for (name, stored) in before {
        if !is_mlp(name) {
            assert_eq!(*stored, after[name], "{name}");
            continue;
        }
        let blocks = stored.shape[0].div_ceil(BLOCK) * stored.shape[1].div_ceil(BLOCK);
        let count = (0.25 * blocks as f64).round() as usize;
        let features = norms.map(|norms| norms[name].numbers());
        let kept = best(stored, BLOCK, out_in, count, features.as_deref());
        check_pruned(name, stored, &after[name], BLOCK, out_in, &kept);
        moved += usize::from(kept != best(stored, BLOCK, out_in, count, None));
        pruned.insert(name.clone(), count);
    }
    assert!(norms.is_none() || moved > 0, "the norms must matter for the test to mean anything");
    pruned
}

/// Sparsifies, verifies, inspects and densifies a model, and holds every tensor against the naive result.
fn round_trip(model: &Model) {
    let place = model.place();
    place.fine("sparsify dense sparse --sparsity 0.75 --block 16");
    assert_eq!(place.fine("verify sparse --json").json()["problems"], json!([]));
    let inspected = place.fine("inspect sparse --json").json();
    place.fine("densify sparse again");
    let pruned = check(&place.tensors("dense"), &place.tensors("again"), model.family, None);
    let rows = inspected["layers"].as_array().unwrap();
    assert_eq!(rows.len(), pruned.len());
    for row in rows {
        assert_eq!(row["kept"], pruned[row["name"].as_str().unwrap()]);
        assert_eq!(row["packed"], true);
    }
    for file in ["config.json", "tokenizer.json"] {
        assert_eq!(place.read(&format!("dense/{file}")), place.read(&format!("again/{file}")));
    }
    place.no_rubbish();
}

#[test]
fn sharded_checkpoints_of_every_type_and_family_come_back_block_for_block() {
    for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
        round_trip(&Model::small(Family::Llama, dtype));
        round_trip(&Model::small(Family::Gpt2, dtype));
    }
}

#[test]
fn sizes_that_are_no_multiple_of_the_block_come_back_too() {
    for family in [Family::Llama, Family::Gpt2] {
        let small = Model::small(family, Dtype::F32);
        round_trip(&Model { d_model: 37, d_ff: 51, shards: 1, ..small });
    }
}

#[test]
fn packed_values_lie_as_the_format_says() {
    let place = Place::new();
    // [d_output, d_input] = [8, 24]: three block rows, one block column; the first block is the weakest.
    let numbers: Vec<f32> = (0..192).map(|at| (at % 24) as f32 + at as f32 / 1000.0).collect();
    place.write("a.safetensors", [("w", Stored::f32(&[8, 24], &numbers))], &[]);
    place.fine("sparsify a.safetensors b.safetensors --include ^w$ --block 8 --sparsity 0.3");
    let packed = place.tensors("b.safetensors");
    let list = |name: &str| packed[name].numbers();
    assert_eq!(list("w.layout"), [1.0, 8.0, 24.0, 8.0, 0.0]);
    assert_eq!(list("w.row_idx"), [1.0, 2.0]);
    assert_eq!(list("w.col_ptr"), [0.0, 2.0]);
    assert_eq!(packed["w.values"].shape, [2, 8, 8]);
    // Row 3 of the second kept block is input feature 16 + 3, its column 5 output feature 5.
    assert_eq!(list("w.values")[64 + 3 * 8 + 5], f64::from(numbers[5 * 24 + 19]));
    assert_eq!(place.entry("b.safetensors"), "{\"version\":1,\"out_in\":[\"w\"]}");
}

#[test]
fn without_sparsity_the_files_come_back_byte_for_byte() {
    let place = Model::small(Family::Llama, Dtype::BF16).place();
    place.fine("sparsify dense sparse --sparsity 0 --block 32");
    place.fine("densify sparse again");
    place.same_files("dense", "again");
}

#[test]
fn the_index_names_the_packed_tensors_where_they_are() {
    let place = Model::small(Family::Llama, Dtype::BF16).place();
    place.fine("sparsify dense sparse --block 16");
    let text = place.read("sparse/model.safetensors.index.json");
    let index: serde_json::Value = serde_json::from_str(&text).unwrap();
    let map = index["weight_map"].as_object().unwrap();
    let mut total = 0;
    for file in place.safetensors_files("sparse") {
        for (name, stored) in place.tensors(file.to_str().unwrap()) {
            assert_eq!(map[&name], *file.file_name().unwrap().to_string_lossy());
            total += stored.bytes.len();
        }
    }
    assert_eq!(map.len(), place.tensors("sparse").len());
    assert_eq!(index["metadata"]["total_size"], total);
}

#[test]
fn two_runs_write_the_same_bytes() {
    let place = Model::small(Family::Llama, Dtype::F16).place();
    for run in ["one", "two"] {
        place.fine(&format!("sparsify dense {run} --block 16 --budget global"));
    }
    place.same_files("one", "two");
}

#[test]
fn dense_output_is_the_packed_one_unpacked() {
    for family in [Family::Llama, Family::Gpt2] {
        let place = Model { d_model: 40, ..Model::small(family, Dtype::BF16) }.place();
        place.fine("sparsify dense packed --block 16");
        place.fine("densify packed unpacked");
        place.fine("sparsify dense masked --block 16 --dense");
        assert_eq!(place.tensors("masked"), place.tensors("unpacked"));
        let found = place.fine("inspect masked --block 16 --json").json();
        let packed = place.fine("inspect packed --json").json();
        assert_eq!(found["total"]["kept"], packed["total"]["kept"]);
        assert_eq!(found["layers"][0]["packed"], false);
    }
}

#[test]
fn weights_of_wanda_follow_the_activations() {
    for family in [Family::Llama, Family::Gpt2] {
        let place = Model::small(family, Dtype::BF16).place();
        let before = place.tensors("dense");
        let mut norms = Tensors::new();
        for (name, stored) in before.iter().filter(|(name, _)| is_mlp(name)) {
            let inputs = stored.shape[usize::from(family == Family::Llama)];
            let features: Vec<f32> = (0..inputs).map(|at| 0.1 + (at * 7 % 13) as f32).collect();
            norms.insert(name.clone(), Stored::f32(&[inputs], &features));
        }
        place.write("norms", norms.clone(), &[]);
        let options = "--block 16 --sparsity 0.75 --dense --score wanda --activations norms";
        place.fine(&format!("sparsify dense pruned {options}"));
        check(&before, &place.tensors("pruned"), family, Some(&norms));
    }
}

#[test]
fn every_budget_keeps_the_exact_number() {
    let place = Place::new();
    // Two weights of 4 x 4 and 8 x 4 blocks; every element of a block has the size of its score.
    let weight = |rows: usize, cols: usize, least: f32| {
        let block = |at: usize| (at / (cols * 8) / 8) * cols + at % (cols * 8) / 8;
        let numbers = (0..rows * cols * 64).map(|at| least + block(at) as f32);
        Stored::f32(&[rows * 8, cols * 8], &numbers.collect::<Vec<_>>())
    };
    let tensors = [("layers.0.strong", weight(4, 4, 100.0)), ("layers.1.weak", weight(8, 4, 0.0))];
    place.write("a.safetensors", tensors, &[]);
    let rest = "--include layers --block 8 --orientation in-out --json --force";
    for (options, kept) in [
        ("--sparsity 0.5", [8, 16]),
        // All of the strong weight, and the best eight of the weak one.
        ("--sparsity 0.5 --budget global", [16, 8]),
        ("--sparsity 0.5 --budget global --min-density 0.375", [12, 12]),
        ("--sparsity 0.5 --budget global --max-density 0.75", [12, 12]),
        // Density follows (rows + cols) / (rows * cols): 8/16 against 12/32.
        ("--sparsity 0.5 --budget erk", [10, 14]),
        ("--sparsity 0.99", [1, 1]),
    ] {
        let words = format!("sparsify a.safetensors b.safetensors {rest} {options}");
        let layers = &place.fine(&words).json()["layers"];
        assert_eq!([&layers[0]["kept"], &layers[1]["kept"]], kept, "{options}");
    }
}

#[test]
fn equal_blocks_are_kept_by_number() {
    let place = Place::new();
    place.write("a.safetensors", [("w", Stored::f32(&[16, 24], &[1.0; 16 * 24]))], &[]);
    // [d_output, d_input] = [16, 24]: block rows 0 to 2, block columns 0 and 1.
    place.fine("sparsify a.safetensors b.safetensors --include w --block 8 --sparsity 0.5");
    let packed = place.tensors("b.safetensors");
    assert_eq!(packed["w.col_ptr"].numbers(), [0.0, 2.0, 3.0]);
    assert_eq!(packed["w.row_idx"].numbers(), [0.0, 1.0, 0.0]);
}

#[test]
fn the_last_layers_and_excluded_weights_stay_as_they_are() {
    let place = Model { layers: 11, ..Model::small(Family::Llama, Dtype::BF16) }.place();
    let options = "--block 16 --dense-last 2 --exclude gate_proj --exclude layers\\.0\\. --json";
    let report = place.fine(&format!("sparsify dense sparse {options}")).json();
    let names: Vec<&str> = report["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    let expected: Vec<String> = (1..9)
        .flat_map(|layer| {
            ["down", "up"].map(|part| format!("model.layers.{layer}.mlp.{part}_proj.weight"))
        })
        .collect();
    assert_eq!(names, expected);
    assert_eq!(report["kept_dense"].as_array().unwrap().len(), 4);
    let (before, after) = (place.tensors("dense"), place.tensors("sparse"));
    for name in ["model.layers.10.mlp.up_proj.weight", "model.layers.3.mlp.gate_proj.weight"] {
        assert_eq!(before[name], after[name]);
    }
}

#[test]
fn a_packed_checkpoint_takes_more_packed_weights() {
    let place = Model::one_file();
    place.fine("sparsify dense mlp --block 16 --include mlp --sparsity 0");
    place.fine("sparsify mlp both --block 32 --include q_proj --sparsity 0");
    let entry = place.entry("both/model.safetensors");
    assert!(entry.contains("mlp.up_proj") && entry.contains("self_attn.q_proj"), "{entry}");
    place.fine("verify both");
    place.fine("densify both again");
    assert_eq!(place.tensors("dense"), place.tensors("again"));
}

#[test]
fn dense_weights_in_a_file_of_burn_blast_are_taken_as_it_stores_them() {
    let place = Place::new();
    let weight = Stored::f32(&[24, 8], &(0..192).map(|at| at as f32).collect::<Vec<_>>());
    let ours = "{\"version\":1}";
    place.write("a.safetensors", [("up.weight", weight)], &[("burn_blast", ours)]);
    place.fine("sparsify a.safetensors b.safetensors --include up --block 8 --sparsity 0.3");
    let layout = place.tensors("b.safetensors")["up.weight.layout"].numbers();
    assert_eq!(layout, [1.0, 8.0, 24.0, 8.0, 0.0]);
    place.fine("densify b.safetensors c.safetensors");
    for file in ["b.safetensors", "c.safetensors"] {
        assert_eq!(place.entry(file), ours);
    }
    assert_eq!(place.tensors("c.safetensors")["up.weight"].shape, [24, 8]);
}

#[test]
fn force_replaces_files_and_folders_whole() {
    let place = Model::small(Family::Llama, Dtype::BF16).place();
    place.fine("sparsify dense sparse --block 16");
    place.put("sparse/stale.json", "{}");
    place.fine("sparsify dense sparse --block 32 --force");
    assert!(!place.path("sparse/stale.json").exists());
    assert_eq!(place.fine("inspect sparse --json").json()["layers"][0]["block"], 32);
    for _ in 0..2 {
        let shard = "dense/model-00002-of-00003.safetensors";
        place.fine(&format!("sparsify {shard} one.safetensors --block 16 --force"));
    }
    place.fine("verify one.safetensors");
    place.no_rubbish();
}

#[test]
fn weights_in_another_form_are_not_copied_and_that_is_said() {
    let place = Model::one_file();
    fs::create_dir(place.path("dense/original")).unwrap();
    let index = "original/model.safetensors.index.json";
    for file in
        ["pytorch_model.bin", "original/params.json", "original/consolidated.pth", ".hidden", index]
    {
        place.put(&format!("dense/{file}"), "x");
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink(place.path("."), place.path("dense/elsewhere")).unwrap();
    let outcome = place.fine("sparsify dense sparse --block 16");
    outcome.says(&[&format!("original/consolidated.pth, {index}, pytorch_model.bin")]);
    assert_eq!(outcome.out.contains("are no files: elsewhere, original"), cfg!(unix));
    let there = |file: &str| place.path("sparse").join(file).exists();
    assert!(there("original/params.json"));
    for file in ["pytorch_model.bin", "original/consolidated.pth", ".hidden", index, "elsewhere"] {
        assert!(!there(file), "{file}");
    }
}
