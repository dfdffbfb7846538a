//! `blast verify` finds every kind of damage, all of it, and nothing in what `blast` wrote.

use safetensors::Dtype;

use crate::common::*;

/// A packed weight of 20 x 12 in blocks of 8: two block columns, three block rows, both ragged.
fn packed() -> (Place, Tensors) {
    let place = Place::new();
    let numbers: Vec<f32> = (1..=240).map(|at| at as f32).collect();
    place.write("dense.safetensors", [("w", Stored::f32(&[20, 12], &numbers))], &[]);
    let options = "--include w --block 8 --sparsity 0.2 --orientation in-out";
    place.fine(&format!("sparsify dense.safetensors w.safetensors {options}"));
    let tensors = place.tensors("w.safetensors");
    assert_eq!(tensors["w.row_idx"].numbers(), [0.0, 1.0, 2.0, 1.0, 2.0]);
    (place, tensors)
}

/// Writes damaged tensors and expects these problems and no others.
fn problems(change: impl FnOnce(&mut Tensors), metadata: &[(&str, &str)], expected: &[&str]) {
    let (place, mut tensors) = packed();
    change(&mut tensors);
    place.write("w.safetensors", tensors, metadata);
    let outcome = place.run("verify w.safetensors --json");
    assert_eq!(outcome.code, i32::from(!expected.is_empty()), "{outcome:?}");
    let report = outcome.json();
    let found = report["problems"].as_array().unwrap();
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.as_str().unwrap().contains(expected), "no \"{expected}\" in {found}");
    }
}

fn set(tensors: &mut Tensors, name: &str, numbers: &[i32]) {
    tensors.insert(name.to_string(), Stored::i32(numbers));
}

#[test]
fn a_sound_file_has_no_problem() {
    problems(|_| {}, &[], &[]);
    problems(|_| {}, &[("burn_blast", "{\"version\":1,\"out_in\":[\"w\"]}")], &[]);
}

#[test]
fn missing_and_misshapen_parts_are_all_listed() {
    let remove = |tensors: &mut Tensors| {
        tensors.remove("w.values");
        tensors.remove("w.layout");
    };
    problems(remove, &[], &["has no \"w.values\"", "has no \"w.layout\""]);
    let misshape = |tensors: &mut Tensors| {
        let row_idx = tensors.get_mut("w.row_idx").unwrap();
        row_idx.shape = vec![5, 1];
        let col_ptr = Stored::f32(&[3], &[0.0, 2.0, 5.0]);
        tensors.insert("w.col_ptr".to_string(), col_ptr);
    };
    let expected =
        ["\"w.row_idx\" is I32 of [5, 1], but must be I32 of one axis", "\"w.col_ptr\" is F32"];
    problems(misshape, &[], &expected);
    let values = |tensors: &mut Tensors| {
        let values = tensors.get_mut("w.values").unwrap();
        values.shape = vec![5, 64];
    };
    problems(values, &[], &["is F32 of [5, 64], but must be floating-point of [5, 8, 8]"]);
    let kind = |tensors: &mut Tensors| {
        tensors.get_mut("w.values").unwrap().dtype = Dtype::U32;
    };
    problems(kind, &[], &["is U32 of [5, 8, 8]"]);
}

#[test]
fn values_without_any_index_are_found() {
    let place = Place::new();
    let values = Stored::f32(&[1, 8, 8], &[1.0; 64]);
    place.write("w.safetensors", [("mlp.up_proj.weight.values", values)], &[]);
    let outcome = place.run("verify w.safetensors");
    assert_eq!(outcome.code, 1, "{outcome:?}");
    let missing = |part| format!("has no \"mlp.up_proj.weight.{part}\"");
    outcome.says(&["row_idx", "col_ptr", "layout"].map(missing));
}

#[test]
fn indices_that_are_no_pattern_are_found() {
    let layout =
        |numbers: &'static [i32]| move |tensors: &mut Tensors| set(tensors, "w.layout", numbers);
    problems(layout(&[1, 8, 20]), &[], &["has 3 numbers instead of 5"]);
    problems(layout(&[2, 8, 20, 12, 0]), &[], &["format version 2"]);
    problems(layout(&[1, 9, 20, 12, 0]), &[], &["block size 9 is not supported"]);
    problems(layout(&[1, 8, -20, 12, 0]), &[], &["layout holds -20"]);
    problems(layout(&[1, 8, 0, 12, 0]), &[], &["0 x 12 cannot be divided"]);
    problems(layout(&[1, 8, 20, 30, 0]), &[], &["column pointers have 3 entries"]);
    problems(layout(&[1, 8, 9, 12, 0]), &[], &["outside the grid"]);
    let col_ptr =
        |numbers: &'static [i32]| move |tensors: &mut Tensors| set(tensors, "w.col_ptr", numbers);
    problems(col_ptr(&[1, 3, 5]), &[], &["start at 1 instead of 0"]);
    problems(col_ptr(&[0, 6, 5]), &[], &["from 6 to 5"]);
    problems(col_ptr(&[0, 3, 4]), &[], &["end at 4"]);
    problems(col_ptr(&[0, 3, -5]), &[], &["col_ptr holds -5"]);
    let rows = |tensors: &mut Tensors| set(tensors, "w.row_idx", &[0, 2, 1, 1, 2]);
    problems(rows, &[], &["rows must increase"]);
}

#[test]
fn what_lies_outside_the_weight_must_be_zero() {
    // Slot 2 is block row 2, of which only four rows are inside.
    let below = |tensors: &mut Tensors| {
        let values = tensors.get_mut("w.values").unwrap();
        values.bytes[(2 * 64 + 4 * 8) * 4] = 1;
    };
    problems(below, &[], &["block 2, at block row 2 and column 0, is not zero outside the weight"]);
    // Slot 3 is in block column 1, of which only four columns are inside.
    let beside = |tensors: &mut Tensors| {
        let values = tensors.get_mut("w.values").unwrap();
        values.bytes[(3 * 64 + 4) * 4] = 1;
    };
    problems(beside, &[], &["block 3, at block row 1 and column 1"]);
}

#[test]
fn a_probe_is_there_exactly_when_the_layout_says_so() {
    let armed = |tensors: &mut Tensors| set(tensors, "w.layout", &[1, 8, 20, 12, 1]);
    problems(armed, &[], &["has no \"w.probe\""]);
    let probe = |shape: &[usize]| Stored::f32(shape, &vec![0.0; shape.iter().product()]);
    let small = |tensors: &mut Tensors| {
        armed(tensors);
        tensors.insert("w.probe".to_string(), probe(&[3, 1]));
    };
    problems(small, &[], &["\"w.probe\" is F32 of [3, 1], but must be of [3, 2]"]);
    let right = |tensors: &mut Tensors| {
        armed(tensors);
        tensors.insert("w.probe".to_string(), probe(&[3, 2]));
    };
    problems(right, &[], &[]);
    let stray = |tensors: &mut Tensors| {
        tensors.insert("w.probe".to_string(), probe(&[3, 2]));
    };
    problems(stray, &[], &["must be absent"]);
}

#[test]
fn metadata_and_doubled_weights_are_checked() {
    problems(
        |_| {},
        &[("burn_blast", "yes")],
        &["\"burn_blast\" cannot be read", "\"burn_blast\" cannot be read"],
    );
    let newer = "{\"version\":7}";
    let twice = ["has format version 7, not 1", "has format version 7, not 1"];
    problems(|_| {}, &[("burn_blast", newer)], &twice);
    let foreign = "{\"version\":1,\"out_in\":[\"v\"]}";
    problems(|_| {}, &[("burn_blast", foreign)], &["names \"v\", which is not a packed weight"]);
    let both = |tensors: &mut Tensors| {
        tensors.insert("w".to_string(), Stored::f32(&[20, 12], &[0.0; 240]));
    };
    problems(both, &[], &["both dense and packed"]);
}

#[test]
fn a_checkpoint_with_several_wounds_lists_them_all() {
    let place = Place::new();
    Model::small(Family::Llama, Dtype::BF16).write(&place, "dense");
    place.fine("sparsify dense sparse --block 16");
    let index = "sparse/model.safetensors.index.json";
    let text = place.read(index);
    let total = text.lines().find(|line| line.contains("total_size")).unwrap();
    place.put(index, text.replace(total, "\"total_size\": 17"));
    let outcome = place.run("verify sparse");
    assert_eq!(outcome.code, 1);
    outcome.says(&["says total_size 17, but"]);
    let shard = "sparse/model-00001-of-00003.safetensors";
    let bytes = std::fs::read(place.path(shard)).unwrap();
    place.put(shard, &bytes[..bytes.len() - 100]);
    let other = "sparse/model-00002-of-00003.safetensors";
    let mut broken = place.tensors(other);
    let name = broken.keys().find(|name| name.ends_with("col_ptr")).unwrap().clone();
    broken.remove(&name);
    place.write(other, broken, &[]);
    let outcome = place.run("verify sparse");
    assert_eq!(outcome.code, 1);
    let missing = "has no \"model.layers.0.mlp";
    outcome.says(&["truncated or damaged", "which it does not", missing, "3 files"]);
}
