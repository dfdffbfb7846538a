//! `blast inspect` and `blast diff`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::*;

/// A weight of 16 x 24 on disk whose blocks of 8 have the size of their place, 1 to 6.
fn dense(folder: &TempDir) -> PathBuf {
    let file = folder.path().join("dense.safetensors");
    let numbers: Vec<f32> =
        (0..16 * 24).map(|at| (at / 24 / 8 * 3 + at % 24 / 8 + 1) as f32).collect();
    let tensors =
        [("w", Stored::f32(&[16, 24], &numbers)), ("bias", Stored::f32(&[2], &[1.0, 2.0]))];
    write(&file, &tensors.map(|(name, stored)| (name.to_string(), stored)).into(), &[]);
    file
}

fn sparsified(folder: &TempDir, name: &str, sparsity: &str) -> PathBuf {
    let (dense, file) = (dense(folder), folder.path().join(name));
    fine("sparsify", &[&dense, &file], &format!("--include w --block 8 --sparsity {sparsity}"));
    file
}

fn diffed(a: &Path, b: &Path) -> (i32, Value) {
    let outcome = run("diff", &[a, b], "--json");
    (outcome.code, serde_json::from_str(&outcome.out).unwrap_or_else(|_| panic!("{outcome:?}")))
}

#[test]
fn inspect_counts_blocks_bytes_and_columns() {
    let folder = tempfile::tempdir().unwrap();
    let file = sparsified(&folder, "sparse.safetensors", "0.5");
    let report = fine("inspect", &[&file], "--json").json();
    let expected = json!([{
        "name": "w", "d_input": 24, "d_output": 16, "dtype": "F32", "orientation": "out-in",
        "packed": true, "block": 8, "blocks": 6, "kept": 3, "sparsity": 0.5,
        "dense_bytes": 16 * 24 * 4, "packed_bytes": 3 * 64 * 4 + (5 + 3 + 3) * 4,
        "densest": {"column": 1, "kept": 3}, "emptiest": {"column": 0, "kept": 0},
    }]);
    assert_eq!(report["layers"], expected);
    let packed: usize = tensors(&file)
        .iter()
        .filter(|(name, _)| name.starts_with('w'))
        .map(|(_, stored)| stored.bytes.len())
        .sum();
    assert_eq!(report["layers"][0]["packed_bytes"], packed);
    let text = fine("inspect", &[&file], "").out;
    for part in ["3 / 6", "50.0 %", "1 (3)", "0 (0)", "5 tensors in 1 files"] {
        assert!(text.contains(part), "no \"{part}\" in {text}");
    }
}

#[test]
fn inspect_draws_each_pattern() {
    let folder = tempfile::tempdir().unwrap();
    let file = sparsified(&folder, "sparse.safetensors", "0.5");
    let pictures = folder.path().join("pictures");
    fine("inspect", &[&file], &format!("--svg {}", pictures.display()));
    let svg = fs::read_to_string(pictures.join("w.svg")).unwrap();
    assert!(svg.contains("w: 3 of 6 blocks") && svg.trim_end().ends_with("</svg>"));
    // Background, grid, frame, and the kept blocks.
    assert_eq!(svg.matches("<rect").count(), 6);
}

#[test]
fn inspect_finds_zero_blocks_of_either_sign_in_dense_weights() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dense.safetensors");
    let mut numbers = vec![1.0_f32; 16 * 16];
    for row in 0..8 {
        numbers[row * 16..row * 16 + 8].fill(if row % 2 == 0 { 0.0 } else { -0.0 });
    }
    let mut nan = vec![0.0_f32; 64];
    nan[5] = f32::NAN;
    let tensors =
        [("zeros", Stored::f32(&[16, 16], &numbers)), ("nan", Stored::f32(&[8, 8], &nan))];
    write(&file, &tensors.map(|(name, stored)| (name.to_string(), stored)).into(), &[]);
    let report = fine("inspect", &[&file], "--block 8 --json").json();
    assert_eq!(report["layers"][0]["name"], "zeros");
    assert_eq!(report["layers"][0]["kept"], 3);
    assert_eq!(report["layers"][0]["packed"], false);
    assert_eq!(report["without_zero_blocks"], 1);
    assert!(fine("inspect", &[&file], "").out.contains("--block 64 looks for zero blocks"));
}

#[test]
fn a_checkpoint_is_equal_to_itself() {
    let folder = tempfile::tempdir().unwrap();
    let file = sparsified(&folder, "sparse.safetensors", "0.5");
    let (code, report) = diffed(&file, &file);
    assert_eq!(code, 0);
    assert_eq!(report["layers"][0]["both"], 3);
    assert_eq!(report["equal"], 1);
    assert!(fine("diff", &[&file, &file], "").out.contains("no difference"));
}

#[test]
fn diff_counts_blocks_and_equal_values() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) =
        (sparsified(&folder, "a.safetensors", "0.5"), sparsified(&folder, "b.safetensors", "0.7"));
    // Another value in the first block that both keep, and another bias.
    let mut changed = tensors(&b);
    changed.get_mut("w.values").unwrap().bytes[2] ^= 1;
    changed.get_mut("bias").unwrap().bytes[0] ^= 1;
    write(&b, &changed, &[]);
    let (code, report) = diffed(&a, &b);
    assert_eq!(code, 1);
    let row = json!([{"name": "w", "both": 2, "only_a": 1, "only_b": 0, "churn": 0.5, "equal": 1}]);
    assert_eq!(report["layers"], row);
    assert_eq!(report["different"], json!(["bias"]));
    let text = run("diff", &[&a, &b], "").out;
    for part in ["1 / 2", "50.0 %", "different: bias", "the checkpoints differ"] {
        assert!(text.contains(part), "no \"{part}\" in {text}");
    }
}

#[test]
fn a_packed_weight_is_compared_with_a_dense_one_by_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let (dense, sparse) = (dense(&folder), sparsified(&folder, "a.safetensors", "0.5"));
    let (code, report) = diffed(&sparse, &dense);
    assert_eq!(code, 1);
    let row = json!([{"name": "w", "both": 3, "only_a": 0, "only_b": 3, "churn": 0.5, "equal": 3}]);
    assert_eq!(report["layers"], row);
    let again = folder.path().join("again.safetensors");
    fine("densify", &[&sparse, &again], "");
    assert_eq!(diffed(&again, &sparse).0, 0);
}

#[test]
fn what_cannot_be_compared_and_what_only_one_has_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let a = sparsified(&folder, "a.safetensors", "0.5");
    let b = folder.path().join("b.safetensors");
    fine("sparsify", &[&dense(&folder), &b], "--include w --block 16 --sparsity 0.5");
    let mut more = tensors(&b);
    let bias = more.remove("bias").unwrap();
    more.insert("scale".to_string(), bias);
    write(&b, &more, &[]);
    let (code, report) = diffed(&a, &b);
    assert_eq!(code, 1);
    let reason = report["incomparable"][0].as_str().unwrap();
    assert!(reason.contains("blocks of 8 against 24 x 16 of F32 in blocks of 16"), "{reason}");
    assert_eq!(report["only_a"], json!(["bias"]));
    assert_eq!(report["only_b"], json!(["scale"]));
}

#[test]
fn a_dense_weight_of_a_type_without_arithmetic_is_not_called_missing() {
    let folder = tempfile::tempdir().unwrap();
    let packed = sparsified(&folder, "a.safetensors", "0.5");
    let mut quantised = tensors(&dense(&folder));
    let w = Stored { dtype: safetensors::Dtype::I8, shape: vec![16, 24], bytes: vec![1; 16 * 24] };
    quantised.insert("w".to_string(), w);
    let other = folder.path().join("b.safetensors");
    write(&other, &quantised, &[]);
    for (a, b) in [(&packed, &other), (&other, &packed)] {
        let (code, report) = diffed(a, b);
        assert_eq!(code, 1);
        assert_eq!(report["incomparable"], json!(["w: I8 of [16, 24] against a packed weight"]));
        assert_eq!((&report["only_a"], &report["only_b"]), (&json!([]), &json!([])));
    }
}
