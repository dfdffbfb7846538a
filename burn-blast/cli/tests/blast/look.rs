//! `blast inspect` and `blast diff`.

use serde_json::{Value, json};

use crate::common::*;

/// A weight of 16 x 24 on disk whose blocks of 8 have the size of their place, 1 to 6; also packed at this sparsity.
fn place(packed: &[(&str, &str)]) -> Place {
    let place = Place::new();
    let numbers: Vec<f32> =
        (0..16 * 24).map(|at| (at / 24 / 8 * 3 + at % 24 / 8 + 1) as f32).collect();
    let tensors =
        [("w", Stored::f32(&[16, 24], &numbers)), ("bias", Stored::f32(&[2], &[1.0, 2.0]))];
    place.write("dense.safetensors", tensors, &[]);
    for (name, options) in packed {
        place.fine(&format!("sparsify dense.safetensors {name}.safetensors --include w {options}"));
    }
    place
}

fn diff(place: &Place, a: &str, b: &str) -> (i32, Value) {
    let outcome = place.run(&format!("diff {a}.safetensors {b}.safetensors --json"));
    (outcome.code, outcome.json())
}

#[test]
fn inspect_counts_blocks_bytes_and_columns() {
    let place = place(&[("a", "--block 8 --sparsity 0.5")]);
    let report = place.fine("inspect a.safetensors --json").json();
    let expected = json!([{
        "name": "w", "d_input": 24, "d_output": 16, "dtype": "F32", "orientation": "out-in",
        "packed": true, "block": 8, "blocks": 6, "kept": 3, "sparsity": 0.5,
        "dense_bytes": 16 * 24 * 4, "packed_bytes": 3 * 64 * 4 + (5 + 3 + 3) * 4,
        "densest": {"column": 1, "kept": 3}, "emptiest": {"column": 0, "kept": 0},
    }]);
    assert_eq!(report["layers"], expected);
    let tensors = place.tensors("a.safetensors");
    let packed = tensors.iter().filter(|(name, _)| name.starts_with('w'));
    let packed: usize = packed.map(|(_, stored)| stored.bytes.len()).sum();
    assert_eq!(report["layers"][0]["packed_bytes"], packed);
    let text = place.fine("inspect a.safetensors");
    text.says(&["3 / 6", "50.0 %", "1 (3)", "0 (0)", "5 tensors in 1 files"]);
}

#[test]
fn inspect_draws_each_pattern_and_replaces_pictures_only_with_force() {
    let place = place(&[("a", "--block 8 --sparsity 0.5")]);
    place.fine("inspect a.safetensors --svg pictures");
    let svg = place.read("pictures/w.svg");
    assert!(svg.contains("w: 3 of 6 blocks") && svg.trim_end().ends_with("</svg>"));
    // Background, grid, frame, and the kept blocks.
    assert_eq!(svg.matches("<rect").count(), 6);
    place.refused("inspect a.safetensors --svg pictures", &["already there", "--force"]);
    place.fine("inspect a.safetensors --svg pictures --force");
}

#[test]
fn inspect_finds_zero_blocks_of_either_sign_in_dense_weights() {
    let place = Place::new();
    let mut numbers = vec![1.0_f32; 16 * 16];
    for row in 0..8 {
        numbers[row * 16..row * 16 + 8].fill(if row % 2 == 0 { 0.0 } else { -0.0 });
    }
    let mut nan = vec![0.0_f32; 64];
    nan[5] = f32::NAN;
    let tensors =
        [("zeros", Stored::f32(&[16, 16], &numbers)), ("nan", Stored::f32(&[8, 8], &nan))];
    place.write("a.safetensors", tensors, &[]);
    let report = place.fine("inspect a.safetensors --block 8 --json").json();
    assert_eq!(report["layers"][0]["name"], "zeros");
    assert_eq!(report["layers"][0]["kept"], 3);
    assert_eq!(report["layers"][0]["packed"], false);
    assert_eq!(report["without_zero_blocks"], 1);
    place.fine("inspect a.safetensors").says(&["--block 64 looks for zero blocks"]);
}

#[test]
fn diff_counts_blocks_and_equal_values() {
    let place = place(&[("a", "--block 8 --sparsity 0.5"), ("b", "--block 8 --sparsity 0.7")]);
    // Another value in the first block that both keep, and another bias.
    let mut changed = place.tensors("b.safetensors");
    changed.get_mut("w.values").unwrap().bytes[2] ^= 1;
    changed.get_mut("bias").unwrap().bytes[0] ^= 1;
    place.write("b.safetensors", changed, &[]);
    let (code, report) = diff(&place, "a", "b");
    assert_eq!(code, 1);
    let row = json!([{"name": "w", "both": 2, "only_a": 1, "only_b": 0, "churn": 0.5, "equal": 1}]);
    assert_eq!(report["layers"], row);
    assert_eq!(report["different"], json!(["bias"]));
    let parts = ["1 / 2", "50.0 %", "different: bias", "the checkpoints differ"];
    place.finds("diff a.safetensors b.safetensors", &parts);
}

#[test]
fn a_packed_weight_is_compared_with_a_dense_one_by_its_content() {
    let place = place(&[("a", "--block 8 --sparsity 0.5")]);
    let (code, report) = diff(&place, "a", "dense");
    assert_eq!(code, 1);
    let row = json!([{"name": "w", "both": 3, "only_a": 0, "only_b": 3, "churn": 0.5, "equal": 3}]);
    assert_eq!(report["layers"], row);
    place.fine("densify a.safetensors again.safetensors");
    assert_eq!(diff(&place, "again", "a").0, 0);
    let text = place.fine("diff a.safetensors a.safetensors");
    text.says(&["3 / 3", "1 other tensors are equal; no difference"]);
}

#[test]
fn what_cannot_be_compared_and_what_only_one_has_is_named() {
    let place = place(&[("a", "--block 8 --sparsity 0.5"), ("b", "--block 16 --sparsity 0.5")]);
    let mut more = place.tensors("b.safetensors");
    let bias = more.remove("bias").unwrap();
    more.insert("scale".to_string(), bias);
    place.write("b.safetensors", more, &[]);
    let (code, report) = diff(&place, "a", "b");
    assert_eq!(code, 1);
    let reason = report["incomparable"][0].as_str().unwrap();
    assert!(reason.contains("blocks of 8 against 24 x 16 of F32 in blocks of 16"), "{reason}");
    assert_eq!(report["only_a"], json!(["bias"]));
    assert_eq!(report["only_b"], json!(["scale"]));
}

#[test]
fn a_dense_weight_of_a_type_without_arithmetic_is_not_called_missing() {
    let place = place(&[("a", "--block 8 --sparsity 0.5")]);
    let mut quantised = place.tensors("dense.safetensors");
    let w = Stored { dtype: safetensors::Dtype::I8, shape: vec![16, 24], bytes: vec![1; 16 * 24] };
    quantised.insert("w".to_string(), w);
    place.write("b.safetensors", quantised, &[]);
    for (a, b) in [("a", "b"), ("b", "a")] {
        let (code, report) = diff(&place, a, b);
        assert_eq!(code, 1);
        assert_eq!(report["incomparable"], json!(["w: I8 of [16, 24] against a packed weight"]));
        assert_eq!((&report["only_a"], &report["only_b"]), (&json!([]), &json!([])));
    }
}
