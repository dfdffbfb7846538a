//! From dense to packed and back, against naive code: which blocks, which bits, which files.

use std::fs;
use std::path::Path;

use safetensors::Dtype;

use crate::common::synthetic::{Family, Model};
use crate::common::*;

const BLOCK: usize = 16;

fn is_mlp(name: &str) -> bool {
    name.contains(".mlp.") && name.ends_with(".weight")
}

/// Blocks of a weight and how many of them stay.
fn keep(stored: &Stored, sparsity: f64) -> usize {
    let blocks = stored.shape[0].div_ceil(BLOCK) * stored.shape[1].div_ceil(BLOCK);
    ((1.0 - sparsity) * blocks as f64).round() as usize
}

/// Sparsifies, verifies, inspects and densifies a model, and holds every tensor against the naive result.
fn round_trip(model: &Model) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (dense, sparse, again) = (path("dense"), path("sparse"), path("again"));
    model.write(&dense);
    let out_in = model.family == Family::Llama;

    fine("sparsify", &[&dense, &sparse], "--sparsity 0.75 --block 16 --json");
    assert_eq!(fine("verify", &[&sparse], "--json").json()["problems"], serde_json::json!([]));
    let inspected = fine("inspect", &[&sparse], "--json").json();
    fine("densify", &[&sparse, &again], "");

    let (before, after) = (tensors(&dense), tensors(&again));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    let mut packed = 0;
    for (name, stored) in &before {
        if !is_mlp(name) {
            assert_eq!(*stored, after[name], "{name}");
            continue;
        }
        let kept = best(stored, BLOCK, out_in, keep(stored, 0.75), None);
        check_pruned(name, stored, &after[name], BLOCK, out_in, &kept);
        let rows = inspected["layers"].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == **name).unwrap();
        assert_eq!(row["kept"], kept.len(), "{name}");
        assert_eq!(row["packed"], true);
        packed += 1;
    }
    assert_eq!(inspected["layers"].as_array().unwrap().len(), packed);
    for file in ["config.json", "tokenizer.json"] {
        assert_eq!(fs::read(dense.join(file)).unwrap(), fs::read(again.join(file)).unwrap());
    }
    no_rubbish(&folder);
}

#[test]
fn sharded_checkpoints_of_every_type_and_family_come_back_block_for_block() {
    for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
        round_trip(&small(Family::Llama, dtype));
        round_trip(&small(Family::Gpt2, dtype));
    }
}

#[test]
fn sizes_that_are_no_multiple_of_the_block_come_back_too() {
    for family in [Family::Llama, Family::Gpt2] {
        let small = small(family, Dtype::F32);
        round_trip(&Model { d_model: 37, d_ff: 51, shards: 1, ..small });
    }
}

#[test]
fn packed_values_lie_as_the_format_says() {
    let folder = tempfile::tempdir().unwrap();
    let (dense, sparse) =
        (folder.path().join("a.safetensors"), folder.path().join("b.safetensors"));
    // [d_output, d_input] = [8, 24]: three block rows, one block column; the first block is the weakest.
    let numbers: Vec<f32> = (0..192).map(|at| (at % 24) as f32 + at as f32 / 1000.0).collect();
    let weight = Stored::f32(&[8, 24], &numbers);
    write(&dense, &Tensors::from([("w".to_string(), weight)]), &[]);
    fine("sparsify", &[&dense, &sparse], "--include ^w$ --block 8 --sparsity 0.3");
    let packed = tensors(&sparse);
    let list = |name: &str| packed[name].numbers();
    assert_eq!(list("w.layout"), [1.0, 8.0, 24.0, 8.0, 0.0]);
    assert_eq!(list("w.row_idx"), [1.0, 2.0]);
    assert_eq!(list("w.col_ptr"), [0.0, 2.0]);
    assert_eq!(packed["w.values"].shape, [2, 8, 8]);
    // Row 3 of the second kept block is input feature 16 + 3, its column 5 output feature 5.
    assert_eq!(list("w.values")[64 + 3 * 8 + 5], f64::from(numbers[5 * 24 + 19]));
    let entry = &metadata(&sparse)["burn_blast"];
    assert_eq!(entry, "{\"version\":1,\"out_in\":[\"w\"]}");
}

#[test]
fn without_sparsity_the_files_come_back_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    small(Family::Llama, Dtype::BF16).write(&path("dense"));
    fine("sparsify", &[&path("dense"), &path("sparse")], "--sparsity 0 --block 32");
    fine("densify", &[&path("sparse"), &path("again")], "");
    for entry in fs::read_dir(path("dense")).unwrap() {
        let name = entry.unwrap().file_name();
        let read = |folder: &str| fs::read(path(folder).join(&name)).unwrap();
        assert_eq!(read("dense"), read("again"), "{name:?}");
    }
}

#[test]
fn the_index_names_the_packed_tensors_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (dense, sparse) = (folder.path().join("dense"), folder.path().join("sparse"));
    small(Family::Llama, Dtype::BF16).write(&dense);
    fine("sparsify", &[&dense, &sparse], "--block 16");
    let text = fs::read_to_string(sparse.join("model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&text).unwrap();
    let map = index["weight_map"].as_object().unwrap();
    let mut total = 0;
    for file in safetensors_files(&sparse) {
        for (name, stored) in tensors(&file) {
            assert_eq!(map[&name], *file.file_name().unwrap().to_string_lossy());
            total += stored.bytes.len();
        }
    }
    assert_eq!(map.len(), tensors(&sparse).len());
    assert_eq!(index["metadata"]["total_size"], total);
}

#[test]
fn two_runs_write_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    small(Family::Llama, Dtype::F16).write(&path("dense"));
    for run in ["one", "two"] {
        fine("sparsify", &[&path("dense"), &path(run)], "--block 16 --budget global");
    }
    for file in fs::read_dir(path("one")).unwrap() {
        let name = file.unwrap().file_name();
        let read = |run: &str| fs::read(path(run).join(&name)).unwrap();
        assert_eq!(read("one"), read("two"), "{name:?}");
    }
}

#[test]
fn dense_output_is_the_packed_one_unpacked() {
    for family in [Family::Llama, Family::Gpt2] {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        Model { d_model: 40, ..small(family, Dtype::BF16) }.write(&path("dense"));
        fine("sparsify", &[&path("dense"), &path("packed")], "--block 16");
        fine("densify", &[&path("packed"), &path("unpacked")], "");
        fine("sparsify", &[&path("dense"), &path("masked")], "--block 16 --dense");
        assert_eq!(tensors(&path("masked")), tensors(&path("unpacked")));
        let found = fine("inspect", &[&path("masked")], "--block 16 --json").json();
        let packed = fine("inspect", &[&path("packed")], "--json").json();
        assert_eq!(found["total"]["kept"], packed["total"]["kept"]);
        assert_eq!(found["layers"][0]["packed"], false);
    }
}

#[test]
fn weights_of_wanda_follow_the_activations() {
    for family in [Family::Llama, Family::Gpt2] {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let model = small(family, Dtype::BF16);
        model.write(&path("dense"));
        let out_in = family == Family::Llama;
        let before = tensors(&path("dense"));
        let mut norms = Tensors::new();
        for (name, stored) in before.iter().filter(|(name, _)| is_mlp(name)) {
            let inputs = if out_in { stored.shape[1] } else { stored.shape[0] };
            let features: Vec<f32> = (0..inputs).map(|at| 0.1 + (at * 7 % 13) as f32).collect();
            norms.insert(name.clone(), Stored::f32(&[inputs], &features));
        }
        let file = path("norms.safetensors");
        write(&file, &norms, &[]);
        let rest = format!(
            "--block 16 --sparsity 0.75 --dense --score wanda --activations {}",
            file.display()
        );
        fine("sparsify", &[&path("dense"), &path("pruned")], &rest);
        let (after, mut moved) = (tensors(&path("pruned")), 0);
        for (name, stored) in before.iter().filter(|(name, _)| is_mlp(name)) {
            let features: Vec<f32> = norms[name].numbers().iter().map(|x| *x as f32).collect();
            let kept = best(stored, BLOCK, out_in, keep(stored, 0.75), Some(&features));
            check_pruned(name, stored, &after[name], BLOCK, out_in, &kept);
            moved += usize::from(kept != best(stored, BLOCK, out_in, kept.len(), None));
        }
        assert!(moved > 0, "the activations must matter for the test to mean anything");
    }
}

/// Two weights of 4 x 4 and 8 x 4 blocks; every element of a block has the size of its score.
fn two_weights(file: &Path) {
    let weight = |rows: usize, cols: usize, score: &dyn Fn(usize) -> f32| {
        let element = |at: usize| score((at / (cols * 8) / 8) * cols + at % (cols * 8) / 8);
        Stored::f32(&[rows * 8, cols * 8], &(0..rows * cols * 64).map(element).collect::<Vec<_>>())
    };
    let tensors = Tensors::from([
        ("layers.0.strong".to_string(), weight(4, 4, &|block| 100.0 + block as f32)),
        ("layers.1.weak".to_string(), weight(8, 4, &|block| block as f32)),
    ]);
    write(file, &tensors, &[]);
}

fn kept_of(folder: &Path, options: &str) -> Vec<u64> {
    let (dense, sparse) = (folder.join("dense.safetensors"), folder.join("sparse.safetensors"));
    two_weights(&dense);
    let rest = format!("--include layers --block 8 --orientation in-out --json --force {options}");
    let report = fine("sparsify", &[&dense, &sparse], &rest).json();
    report["layers"].as_array().unwrap().iter().map(|row| row["kept"].as_u64().unwrap()).collect()
}

#[test]
fn every_budget_keeps_the_exact_number() {
    let folder = tempfile::tempdir().unwrap();
    let kept = |options: &str| kept_of(folder.path(), options);
    assert_eq!(kept("--sparsity 0.5"), [8, 16]);
    // All of the strong weight, and the best eight of the weak one.
    assert_eq!(kept("--sparsity 0.5 --budget global"), [16, 8]);
    assert_eq!(kept("--sparsity 0.5 --budget global --min-density 0.375"), [12, 12]);
    assert_eq!(kept("--sparsity 0.5 --budget global --max-density 0.75"), [12, 12]);
    // Density follows (rows + cols) / (rows * cols): 8/16 against 12/32.
    assert_eq!(kept("--sparsity 0.5 --budget erk"), [10, 14]);
    assert_eq!(kept("--sparsity 0.99"), [1, 1]);
}

#[test]
fn equal_blocks_are_kept_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let (dense, sparse) =
        (folder.path().join("dense.safetensors"), folder.path().join("sparse.safetensors"));
    let weight = Stored::f32(&[16, 24], &[1.0; 16 * 24]);
    write(&dense, &Tensors::from([("w".to_string(), weight)]), &[]);
    // [d_output, d_input] = [16, 24]: block rows 0 to 2, block columns 0 and 1.
    fine("sparsify", &[&dense, &sparse], "--include w --block 8 --sparsity 0.5");
    let packed = tensors(&sparse);
    assert_eq!(packed["w.col_ptr"].numbers(), [0.0, 2.0, 3.0]);
    assert_eq!(packed["w.row_idx"].numbers(), [0.0, 1.0, 0.0]);
}

#[test]
fn the_last_layers_and_excluded_weights_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (dense, sparse) = (folder.path().join("dense"), folder.path().join("sparse"));
    Model { layers: 11, ..small(Family::Llama, Dtype::BF16) }.write(&dense);
    let rest = "--block 16 --dense-last 2 --exclude gate_proj --exclude layers\\.0\\. --json";
    let report = fine("sparsify", &[&dense, &sparse], rest).json();
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
    let (before, after) = (tensors(&dense), tensors(&sparse));
    for name in ["model.layers.10.mlp.up_proj.weight", "model.layers.3.mlp.gate_proj.weight"] {
        assert_eq!(before[name], after[name]);
    }
}

#[test]
fn a_packed_checkpoint_takes_more_packed_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    Model { shards: 1, ..small(Family::Llama, Dtype::BF16) }.write(&path("dense"));
    fine("sparsify", &[&path("dense"), &path("mlp")], "--block 16 --include mlp --sparsity 0");
    fine("sparsify", &[&path("mlp"), &path("both")], "--block 32 --include q_proj --sparsity 0");
    let entry = &metadata(&path("both").join("model.safetensors"))["burn_blast"];
    assert!(entry.contains("mlp.up_proj") && entry.contains("self_attn.q_proj"), "{entry}");
    fine("verify", &[&path("both")], "");
    fine("densify", &[&path("both"), &path("again")], "");
    assert_eq!(tensors(&path("dense")), tensors(&path("again")));
}

#[test]
fn dense_weights_in_a_file_of_burn_blast_are_taken_as_it_stores_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let weight = Stored::f32(&[24, 8], &(0..192).map(|at| at as f32).collect::<Vec<_>>());
    let entry = [("burn_blast", "{\"version\":1}")];
    write(&path("a.safetensors"), &Tensors::from([("up.weight".to_string(), weight)]), &entry);
    let rest = "--include up --block 8 --sparsity 0.3";
    fine("sparsify", &[&path("a.safetensors"), &path("b.safetensors")], rest);
    assert_eq!(
        tensors(&path("b.safetensors"))["up.weight.layout"].numbers(),
        [1.0, 8.0, 24.0, 8.0, 0.0]
    );
    fine("densify", &[&path("b.safetensors"), &path("c.safetensors")], "");
    for file in ["b.safetensors", "c.safetensors"] {
        assert_eq!(metadata(&path(file))["burn_blast"], "{\"version\":1}");
    }
    assert_eq!(tensors(&path("c.safetensors"))["up.weight"].shape, [24, 8]);
}

#[test]
fn force_replaces_files_and_folders_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    small(Family::Llama, Dtype::BF16).write(&path("dense"));
    fine("sparsify", &[&path("dense"), &path("sparse")], "--block 16");
    fs::write(path("sparse").join("stale.json"), "{}").unwrap();
    fine("sparsify", &[&path("dense"), &path("sparse")], "--block 32 --force");
    assert!(!path("sparse").join("stale.json").exists());
    assert_eq!(fine("inspect", &[&path("sparse")], "--json").json()["layers"][0]["block"], 32);
    let shard = path("dense").join("model-00002-of-00003.safetensors");
    for _ in 0..2 {
        fine("sparsify", &[&shard, &path("one.safetensors")], "--block 16 --force");
    }
    fine("verify", &[&path("one.safetensors")], "");
    no_rubbish(&folder);
}

#[test]
fn weights_in_another_form_are_not_copied_and_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (dense, sparse) = (folder.path().join("dense"), folder.path().join("sparse"));
    Model { shards: 1, ..small(Family::Llama, Dtype::BF16) }.write(&dense);
    fs::create_dir(dense.join("original")).unwrap();
    let index = "original/model.safetensors.index.json";
    for file in
        ["pytorch_model.bin", "original/params.json", "original/consolidated.pth", ".hidden", index]
    {
        fs::write(dense.join(file), "x").unwrap();
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.path(), dense.join("elsewhere")).unwrap();
    let outcome = fine("sparsify", &[&dense, &sparse], "--block 16");
    assert!(
        outcome.out.contains(&format!("original/consolidated.pth, {index}, pytorch_model.bin")),
        "{}",
        outcome.out
    );
    assert_eq!(outcome.out.contains("are no files: elsewhere, original"), cfg!(unix));
    let there = |file: &str| sparse.join(file).exists();
    assert!(there("original/params.json"));
    assert!(
        !there("pytorch_model.bin") && !there("original/consolidated.pth") && !there(".hidden")
    );
    assert!(!there(index) && !there("elsewhere"));
}
