//! `blast verify` finds every kind of damage, all of it, and nothing in what `blast` wrote.

use safetensors::Dtype;

use crate::common::*;

/// Replaces or removes tensors of a packed weight, and expects these problems and no others. The weight is 20 x 12 in
/// blocks of 8: two block columns, three block rows, both ragged.
fn check(changes: Vec<(&str, Option<Stored>)>, metadata: &[(&str, &str)], expected: &[&str]) {
    let place = Place::new();
    let numbers: Vec<f32> = (1..=240).map(|at| at as f32).collect();
    place.write("dense.safetensors", [("w", Stored::f32(&[20, 12], &numbers))], &[]);
    let options = "--include w --block 8 --sparsity 0.2 --orientation in-out";
    place.fine(&format!("sparsify dense.safetensors w.safetensors {options}"));
    let mut tensors = place.tensors("w.safetensors");
    assert_eq!(tensors["w.row_idx"].numbers(), [0.0, 1.0, 2.0, 1.0, 2.0]);
    for (name, change) in changes {
        match change {
            Some(stored) => drop(tensors.insert(name.to_string(), stored)),
            None => drop(tensors.remove(name)),
        }
    }
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

fn problems(changes: Vec<(&str, Option<Stored>)>, expected: &[&str]) {
    check(changes, &[], expected);
}

fn zeros(shape: &[usize]) -> Stored {
    Stored::f32(shape, &vec![0.0; shape.iter().product()])
}

#[test]
fn a_sound_file_has_no_problem() {
    problems(vec![], &[]);
    check(vec![], &[("burn_blast", "{\"version\":1,\"out_in\":[\"w\"]}")], &[]);
}

#[test]
fn missing_and_misshapen_parts_are_all_listed() {
    let gone = vec![("w.values", None), ("w.layout", None)];
    problems(gone, &["has no \"w.values\"", "has no \"w.layout\""]);
    let row_idx = Stored { shape: vec![5, 1], ..Stored::i32(&[0, 1, 2, 1, 2]) };
    let misshapen = vec![("w.row_idx", Some(row_idx)), ("w.col_ptr", Some(zeros(&[3])))];
    let expected =
        ["\"w.row_idx\" is I32 of [5, 1], but must be I32 of one axis", "\"w.col_ptr\" is F32"];
    problems(misshapen, &expected);
    let expected = ["is F32 of [5, 64], but must be floating-point of [5, 8, 8]"];
    problems(vec![("w.values", Some(zeros(&[5, 64])))], &expected);
    let integers = Stored { dtype: Dtype::U32, ..zeros(&[5, 8, 8]) };
    problems(vec![("w.values", Some(integers))], &["is U32 of [5, 8, 8]"]);
}

#[test]
fn values_without_any_index_are_found() {
    let place = Place::new();
    let values = Stored::f32(&[1, 8, 8], &[1.0; 64]);
    place.write("w.safetensors", [("mlp.up_proj.weight.values", values)], &[]);
    let missing = ["row_idx", "col_ptr", "layout"]
        .map(|part| format!("has no \"mlp.up_proj.weight.{part}\""));
    place.finds("verify w.safetensors", &missing.each_ref().map(String::as_str));
}

#[test]
fn indices_that_are_no_pattern_are_found() {
    for (name, numbers, expected) in [
        ("w.layout", &[1, 8, 20][..], "has 3 numbers instead of 5"),
        ("w.layout", &[2, 8, 20, 12, 0], "format version 2"),
        ("w.layout", &[1, 9, 20, 12, 0], "block size 9 is not supported"),
        ("w.layout", &[1, 8, -20, 12, 0], "layout holds -20"),
        ("w.layout", &[1, 8, 0, 12, 0], "0 x 12 cannot be divided"),
        ("w.layout", &[1, 8, 1 << 29, 12, 0], "a weight of 536870912 rows with"),
        ("w.layout", &[1, 8, 20, 30, 0], "column pointers have 3 entries"),
        ("w.layout", &[1, 8, 9, 12, 0], "outside the grid"),
        ("w.col_ptr", &[1, 3, 5], "start at 1 instead of 0"),
        ("w.col_ptr", &[0, 6, 5], "from 6 to 5"),
        ("w.col_ptr", &[0, 3, 4], "end at 4"),
        ("w.col_ptr", &[0, 3, -5], "col_ptr holds -5"),
        ("w.row_idx", &[0, 2, 1, 1, 2], "rows must increase"),
    ] {
        problems(vec![(name, Some(Stored::i32(numbers)))], &[expected]);
    }
}

#[test]
fn what_lies_outside_the_weight_must_be_zero() {
    for (place, expected) in [
        // Slot 2 is block row 2, of which only four rows are inside.
        (2 * 64 + 4 * 8, "block 2, at block row 2 and column 0, is not zero outside the weight"),
        // Slot 3 is in block column 1, of which only four columns are inside.
        (3 * 64 + 4, "block 3, at block row 1 and column 1"),
    ] {
        let mut values = zeros(&[5, 8, 8]);
        values.bytes[place * 4] = 1;
        problems(vec![("w.values", Some(values))], &[expected]);
    }
}

#[test]
fn a_probe_is_there_exactly_when_the_layout_says_so() {
    let armed = || ("w.layout", Some(Stored::i32(&[1, 8, 20, 12, 1])));
    let probe = |shape: &[usize]| ("w.probe", Some(zeros(shape)));
    problems(vec![armed()], &["has no \"w.probe\""]);
    let expected = "\"w.probe\" is F32 of [3, 1], but must be of [3, 2]";
    problems(vec![armed(), probe(&[3, 1])], &[expected]);
    problems(vec![armed(), probe(&[3, 2])], &[]);
    problems(vec![probe(&[3, 2])], &["must be absent"]);
}

#[test]
fn metadata_and_doubled_weights_are_checked() {
    for (entry, expected) in [
        ("yes", &["\"burn_blast\" cannot be read"; 2][..]),
        ("{\"version\":7}", &["has format version 7, not 1"; 2]),
        ("{\"version\":1,\"out_in\":[\"v\"]}", &["names \"v\", which is not a packed weight"]),
    ] {
        check(vec![], &[("burn_blast", entry)], expected);
    }
    problems(vec![("w", Some(zeros(&[20, 12])))], &["both dense and packed"]);
}

#[test]
fn a_checkpoint_with_several_wounds_lists_them_all() {
    let place = Model::small(Family::Llama, Dtype::BF16).place();
    place.fine("sparsify dense sparse --block 16");
    let index = "sparse/model.safetensors.index.json";
    let text = place.read(index);
    let total = text.lines().find(|line| line.contains("total_size")).unwrap();
    place.put(index, text.replace(total, "\"total_size\": 17"));
    place.finds("verify sparse", &["says total_size 17, but"]);
    let shard = "sparse/model-00001-of-00003.safetensors";
    let bytes = std::fs::read(place.path(shard)).unwrap();
    place.put(shard, &bytes[..bytes.len() - 100]);
    let other = "sparse/model-00002-of-00003.safetensors";
    let mut broken = place.tensors(other);
    let name = broken.keys().find(|name| name.ends_with("col_ptr")).unwrap().clone();
    broken.remove(&name);
    place.write(other, broken, &[]);
    let missing = "has no \"model.layers.0.mlp";
    let parts = ["truncated or damaged", "which it does not", missing, "3 files"];
    place.finds("verify sparse", &parts);
}
