//! What `blast` refuses, and that the message says what to do.

use std::fs;
use std::path::PathBuf;

use safetensors::Dtype;
use tempfile::TempDir;

use crate::common::synthetic::{Family, Model};
use crate::common::*;

/// A folder with a small checkpoint in one file.
fn checkpoint() -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (dense, out) = (folder.path().join("dense"), folder.path().join("out"));
    Model { shards: 1, ..small(Family::Llama, Dtype::BF16) }.write(&dense);
    (folder, dense, out)
}

#[test]
fn wrong_usage_is_answered_with_help() {
    for words in [vec![], vec!["sparsify"], vec!["sparsify", "a", "b", "--budget", "best"]] {
        let outcome = blast(&words);
        assert_eq!(outcome.code, 2);
        assert!(outcome.err.contains("Usage") || outcome.err.contains("possible values"));
    }
    let outcome = blast(&["sparsify", "a", "b", "--include", "("]);
    assert_eq!(outcome.code, 2);
    assert!(outcome.err.contains("--include"), "{}", outcome.err);
    let outcome = blast(&["sparsify", "a", "b", "--score", "wanda"]);
    assert!(outcome.err.contains("--activations"), "{}", outcome.err);
}

#[test]
fn every_command_has_help() {
    for command in ["sparsify", "inspect", "densify", "verify", "diff"] {
        let outcome = blast(&[command, "--help"]);
        assert_eq!(outcome.code, 0);
        assert!(outcome.out.contains("--json") && outcome.out.contains("Usage"), "{}", outcome.out);
    }
    assert!(blast(&["--help"]).out.contains("Exit codes"));
}

#[test]
fn an_input_that_is_not_there_or_not_clear_is_named() {
    let (folder, dense, out) = checkpoint();
    let missing = folder.path().join("missing");
    refused(&folder, "sparsify", &[&missing, &out], "", &["cannot read", "missing"]);
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    refused(&folder, "verify", &[&empty], "", &["holds no safetensors file", "give a file"]);
    fs::copy(dense.join("model.safetensors"), dense.join("other.safetensors")).unwrap();
    fs::rename(dense.join("model.safetensors"), dense.join("first.safetensors")).unwrap();
    let parts = ["several safetensors files", "first.safetensors, other.safetensors", "name one"];
    refused(&folder, "inspect", &[&dense], "", &parts);
}

#[test]
fn damaged_files_are_refused() {
    let (folder, dense, out) = checkpoint();
    let file = dense.join("model.safetensors");
    let whole = fs::read(&file).unwrap();
    for length in [0, 5, 40, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        let parts = [&format!("has {length} bytes"), "truncated or damaged", "fetch it again"];
        refused(&folder, "sparsify", &[&dense, &out], "", &parts);
    }
    let mut garbled = whole.clone();
    garbled[8] = b'x';
    fs::write(&file, garbled).unwrap();
    refused(&folder, "densify", &[&dense, &out], "", &["is not a safetensors file", "header"]);
    assert!(!out.exists());
}

#[test]
fn an_index_that_contradicts_its_files_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (dense, out) = (folder.path().join("dense"), folder.path().join("out"));
    small(Family::Llama, Dtype::BF16).write(&dense);
    let index = dense.join("model.safetensors.index.json");
    let text = fs::read_to_string(&index).unwrap();
    let check = |text: String, parts: &[&str]| {
        fs::write(&index, text).unwrap();
        refused(&folder, "sparsify", &[&dense, &out], "--block 16", parts);
    };
    check(text.replace("model.norm", "model.norms"), &["which it does not", "fetch both"]);
    check(
        text.replace(
            "\"model.norm.weight\": \"model-00001",
            "\"model.norm.weight\": \"model-00002",
        ),
        &["does not say that model-00001"],
    );
    check(text.replace("model-00001", "../model-00001"), &["not beside it", "plain file names"]);
    check("[]".to_string(), &["is not an index of safetensors files"]);
    check("{\"weight_map\": {}}".to_string(), &["names no tensor"]);
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("embed_tokens")).collect();
    check(lines.join("\n"), &["does not say", "embed_tokens"]);
    fs::write(&index, &text).unwrap();
    let lost = dense.join("model-00002-of-00003.safetensors");
    let bytes = fs::read(&lost).unwrap();
    fs::remove_file(&lost).unwrap();
    refused(&folder, "sparsify", &[&dense, &out], "", &["cannot read", "model-00002"]);
    fs::write(&lost, bytes).unwrap();
    // The same tensor in two files, one of which the index does not mean.
    let mut doubled = tensors(&lost);
    let norm = tensors(&dense)["model.norm.weight"].clone();
    doubled.insert("model.norm.weight".to_string(), norm);
    write(&lost, &doubled, &[]);
    let outcome = run("verify", &[&dense], "");
    assert_eq!(outcome.code, 1);
    assert!(outcome.out.contains("do not belong to one checkpoint"), "{}", outcome.out);
}

#[test]
fn outputs_are_not_overwritten() {
    let (folder, dense, out) = checkpoint();
    let file = dense.join("model.safetensors");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("thesis.tex"), "precious").unwrap();
    refused(&folder, "sparsify", &[&dense, &out], "--block 16", &["already there", "--force"]);
    let parts = ["is not a checkpoint folder", "give another name"];
    refused(&folder, "sparsify", &[&dense, &out], "--block 16 --force", &parts);
    refused(&folder, "sparsify", &[&file, &out], "--block 16 --force", &["is not a file"]);
    assert_eq!(fs::read_to_string(out.join("thesis.tex")).unwrap(), "precious");
    let single = folder.path().join("single.safetensors");
    fs::write(&single, "precious").unwrap();
    refused(&folder, "sparsify", &[&file, &single], "--block 16", &["already there"]);
    refused(&folder, "densify", &[&file, &single], "", &["already there"]);
    assert_eq!(fs::read_to_string(&single).unwrap(), "precious");
    for output in [&dense, &dense.join("inside"), &folder.path().to_owned()] {
        let parts = ["is in the input, or holds it", "somewhere else"];
        refused(&folder, "sparsify", &[&dense, output], "--block 16 --force", &parts);
    }
    refused(&folder, "sparsify", &[&file, &file], "--block 16 --force", &["is in the input"]);
    let nowhere = folder.path().join("no/such/folder");
    refused(&folder, "sparsify", &[&dense, &nowhere], "", &["cannot write"]);
}

#[test]
fn a_folder_that_appears_while_blast_works_is_not_replaced() {
    let (folder, dense, out) = checkpoint();
    let source = burn_blast_checkpoint::Source::find(&dense).unwrap();
    let output = burn_blast_checkpoint::Output::new(&source, &out, false).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(out.join("thesis.tex"), "precious").unwrap();
    let error = output.finish().unwrap_err().to_string();
    assert!(error.contains("already there") && error.contains("--force"), "{error}");
    assert_eq!(fs::read_to_string(out.join("thesis.tex")).unwrap(), "precious");
    no_rubbish(&folder);
}

#[test]
fn filters_that_match_nothing_list_what_there_is() {
    let (folder, dense, out) = checkpoint();
    let refuse = |options: &str, parts: &[&str]| {
        refused(&folder, "sparsify", &[&dense, &out], &format!("--block 16 {options}"), parts);
    };
    refuse("--include ffn", &["--include \"ffn\" matches no weight", "mlp.down_proj", "more"]);
    // It matches a tensor, but not one with two axes.
    refuse("--include norm", &["--include \"norm\" matches no weight"]);
    refuse("--exclude ffn", &["--exclude \"ffn\" matches no weight"]);
    refuse("--exclude mlp", &["nothing is left to prune", "--exclude matches every weight"]);
    refuse("--dense-last 2", &["nothing is left to prune", "--dense-last 2 keeps every layer"]);
    refuse("--include embed --dense-last 1", &["counts layers by the number in a name"]);
    let plain = folder.path().join("plain.safetensors");
    write(&plain, &Tensors::from([("w".to_string(), Stored::f32(&[8, 8], &[0.0; 64]))]), &[]);
    refused(&folder, "sparsify", &[&plain, &out], "", &["choose with --include", "are: w"]);
}

#[test]
fn numbers_out_of_range_are_refused() {
    let (folder, dense, out) = checkpoint();
    let refuse = |options: &str, parts: &[&str]| {
        refused(&folder, "sparsify", &[&dense, &out], options, parts);
    };
    refuse("--sparsity 1", &["--sparsity is 1, but must be at least 0 and below 1"]);
    refuse("--sparsity=-0.1", &["--sparsity is -0.1"]);
    refuse("--block 24", &["block size 24 is not supported", "8, 16, 32, 64 or 128"]);
    refuse("--budget global --min-density 0.2", &["--min-density is 0.2", "1 - sparsity"]);
    refuse("--budget global --max-density 0.05", &["--max-density is 0.05", "1 - sparsity"]);
    refuse("--min-density 0.05", &["--min-density is only used with --budget global"]);
    refuse("--max-density 0.5", &["--max-density is only used with --budget global"]);
    refuse("--activations x", &["--activations is only used with --score wanda"]);
    refuse("--block 128", &["is 64 x 160", "less than a block of 128", "--exclude"]);
    refused(&folder, "inspect", &[&dense], "--block 7", &["block size 7 is not supported"]);
    let parts = ["--orientation is only used with --block"];
    refused(&folder, "inspect", &[&dense], "--orientation in-out", &parts);
    refused(&folder, "inspect", &[&dense], "--force", &["--force is only used with --svg"]);
}

#[test]
fn types_without_arithmetic_and_names_that_are_taken_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("a.safetensors"), folder.path().join("b.safetensors"));
    let quantised = Stored { dtype: Dtype::I8, shape: vec![8, 8], bytes: vec![1; 64] };
    write(&file, &Tensors::from([("mlp.up_proj.weight".to_string(), quantised)]), &[]);
    let parts = ["holds I8", "only F32, F16 and BF16", "--exclude"];
    refused(&folder, "sparsify", &[&file, &out], "--block 8", &parts);
    let weight = Stored::f32(&[8, 8], &[1.0; 64]);
    let taken = [("w", weight.clone()), ("w.values", weight)];
    write(&file, &taken.map(|(name, stored)| (name.to_string(), stored)).into(), &[]);
    let parts = ["a tensor \"w.values\" already", "--exclude"];
    refused(&folder, "sparsify", &[&file, &out], "--block 8 --include ^w$", &parts);
}

#[test]
fn activations_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (file, out, norms) = (path("a.safetensors"), path("b.safetensors"), path("n.safetensors"));
    let weight = Stored::f32(&[8, 16], &[1.0; 128]);
    write(&file, &Tensors::from([("w".to_string(), weight)]), &[]);
    let rest = format!("--block 8 --include w --score wanda --activations {}", norms.display());
    let check = |name: &str, stored: Stored, parts: &[&str]| {
        write(&norms, &Tensors::from([(name.to_string(), stored)]), &[]);
        refused(&folder, "sparsify", &[&file, &out], &rest, parts);
    };
    check("v", Stored::f32(&[16], &[1.0; 16]), &["entry \"w\": is missing", "--exclude"]);
    check("w", Stored::f32(&[8], &[1.0; 8]), &["F32 of [8]", "must be F32 of [16]"]);
    check("w", Stored::i32(&[1; 16]), &["I32 of [16]", "must be F32"]);
    let mut bad = [1.0; 16];
    bad[3] = -1.0;
    check("w", Stored::f32(&[16], &bad), &["holds -1 at 3, which is not a norm"]);
    bad[3] = f32::NAN;
    check("w", Stored::f32(&[16], &bad), &["holds NaN at 3"]);
}

#[test]
fn densify_needs_something_packed_and_nothing_twice() {
    let (folder, dense, out) = checkpoint();
    refused(&folder, "densify", &[&dense, &out], "", &["no block-sparse weight", "blast sparsify"]);
    fine("sparsify", &[&dense, &out], "--block 16");
    let file = out.join("model.safetensors");
    let mut both = tensors(&file);
    let name = "model.layers.0.mlp.up_proj.weight";
    both.insert(name.to_string(), tensors(&dense)[name].clone());
    write(&file, &both, &[]);
    let again = folder.path().join("again");
    refused(&folder, "densify", &[&out, &again], "", &["both dense and packed", "remove one"]);
}

#[test]
fn pictures_are_not_overwritten() {
    let (folder, dense, out) = checkpoint();
    fine("sparsify", &[&dense, &out], "--block 16");
    let svg = format!("--svg {}", folder.path().join("svg").display());
    fine("inspect", &[&out], &svg);
    refused(&folder, "inspect", &[&out], &svg, &["already there", "--force"]);
    fine("inspect", &[&out], &format!("{svg} --force"));
}
