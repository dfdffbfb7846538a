//! GGUF files, against transformers and the Python package gguf.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use burn_blast_checkpoint::{Checkpoint, gguf};
use burn_blast_models::{Form, Generation, Model, ModelFolder, Precision};
use safetensors::SafeTensors;

use crate::common::{Expected, distance, folder, numbers};
use crate::reference::SINGLE;

/// What `testdata/make_gguf.py` writes.
const FILES: [&str; 4] = ["quantised", "pieces", "qwen3", "llama3"];

fn file(name: &str) -> PathBuf {
    folder("gguf").join(format!("{name}.gguf"))
}

fn expected(name: &str) -> Expected {
    Expected(std::fs::read(file(name).with_extension("safetensors")).unwrap())
}

fn load(folder: &ModelFolder) -> Model {
    folder.load(&Device::flex(), Precision::F32).unwrap()
}

/// Scores after each token of the file's text.
fn scores(model: &Model, expected: &Expected) -> Vec<f32> {
    numbers(model.forward(model.tokens(&[&expected.ids("tokens")]), None))
}

fn check(folder: &ModelFolder, name: &str) {
    let expected = expected(name);
    let apart = distance(&scores(&load(folder), &expected), &expected.floats("logits"));
    assert!(apart <= SINGLE, "{name}: {apart} apart, {SINGLE} allowed");
}

#[test]
fn scores_and_tokens_are_those_of_the_reference() {
    for name in FILES {
        let opened = ModelFolder::open(file(name)).unwrap();
        check(&opened, name);
        let tokenizer = opened.tokenizer().unwrap();
        let text = "The quick brown fox: naïve café 🦙, it's 2024!";
        let tokens = tokenizer.encode(text).unwrap();
        assert_eq!(tokens, expected(name).ids("text"), "{name}");
        assert_eq!(tokenizer.decode(&tokens).unwrap(), text, "{name}");
    }
}

#[test]
fn every_kind_of_block_is_read_as_the_reference_reads_it() {
    let expected = expected("quantised");
    let stored = SafeTensors::deserialize(&expected.0).unwrap();
    let checkpoint = Checkpoint::open(file("quantised")).unwrap();
    let mut rows = 0;
    for (name, _) in stored.tensors() {
        let Some(ours) = name.strip_prefix("row.") else { continue };
        let theirs = match ours.split('.').rev().nth(1).unwrap() {
            "token_embd" => "model.embed_tokens".to_owned(),
            "output" => "lm_head".to_owned(),
            "attn_output" => "model.layers.0.self_attn.o_proj".to_owned(),
            part => match part.split_once('_').unwrap() {
                ("attn", part) => format!("model.layers.0.self_attn.{part}_proj"),
                (_, part) => format!("model.layers.0.mlp.{part}_proj"),
            },
        };
        let row = expected.floats(&name);
        let tensor = checkpoint.tensor(&format!("{theirs}.weight")).unwrap();
        let found = tensor.elements().iter().map(|bytes| f32::from_le_bytes(*bytes));
        // The first row of a permuted matrix is the first in either order.
        assert_eq!(found.take(row.len()).collect::<Vec<_>>(), row, "{name}");
        rows += 1;
    }
    assert_eq!(rows, 9);
}

#[test]
fn an_unpacked_file_is_saved_as_a_folder_and_leaves_nothing_behind() {
    for name in FILES {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("out");
        let opened = ModelFolder::open(file(name)).unwrap();
        let temporary = opened.path().unwrap().to_owned();
        opened.save(&load(&opened), &out, Form::Dense).unwrap();
        drop(opened);
        assert!(!temporary.exists());
        let saved = ModelFolder::open(&out).unwrap();
        check(&saved, name);
        let text = "a café 🦙";
        let tokens = |folder: &ModelFolder| folder.tokenizer().unwrap().encode(text).unwrap();
        assert_eq!(tokens(&saved), tokens(&ModelFolder::open(file(name)).unwrap()));
        assert_eq!(out.join("chat_template.jinja").exists(), name != "pieces");
    }
}

#[test]
fn texts_end_where_the_file_says() {
    let opened = ModelFolder::open(file("quantised")).unwrap();
    assert_eq!(Generation::new(&opened, 1).stop, [7, 9].into());
}

/// What a changed file is answered with.
fn refusal(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut bytes = std::fs::read(file("llama3")).unwrap();
    change(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    gguf::unpack(&path).unwrap_err().to_string()
}

fn replace(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
}

#[test]
fn what_cannot_be_read_is_named() {
    let cut = refusal(|bytes| bytes.truncate(bytes.len() - 40_000));
    assert!(cut.contains("model.gguf cannot be read"), "{cut}");
    for (from, to, phrase) in [
        ("llama", "mamba", "architecture \"mamba\", which is not implemented"),
        ("attn_v.weight", "attn_x.weight", "a tensor \"blk.0.attn_x.weight\""),
        ("attn_q.weight", "attn_x.weight", "no tensors of its layer 0"),
        ("tokenizer.ggml.merges", "tokenizer.ggml.mergez", "no merges"),
        ("gpt-2", "gpt-4", "splits words as \"gpt-4\""),
        ("llama.block_count", "llama.block_kount", "\"llama.block_count\""),
        ("token_embd.weight", "token_embe.weight", "no tensor \"token_embd.weight\""),
    ] {
        let error = refusal(|bytes| {
            // The architecture begins every key, so only its own value changes.
            match from {
                "llama" => replace(bytes, "\u{5}\0\0\0\0\0\0\0llama", "\u{5}\0\0\0\0\0\0\0mamba"),
                _ => replace(bytes, from, to),
            }
        });
        assert!(error.contains(phrase) && error.contains("folder of safetensors"), "{error}");
    }
    assert!(!gguf::is_gguf(Path::new("nowhere.gguf")));
}
