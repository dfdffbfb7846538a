//! Commands that are given a GGUF file.

use std::fs;
use std::path::Path;

use crate::common::Place;

/// A place with a GGUF file and a text.
fn place() -> Place {
    let (place, models) = (Place::new(), Path::new(env!("CARGO_MANIFEST_DIR")).join("../models"));
    fs::copy(models.join("testdata/gguf/quantised.gguf"), place.path("m.gguf")).unwrap();
    place.put("text.txt", "the quick brown fox jumps over the lazy dog. ".repeat(60));
    place
}

#[test]
fn every_command_that_reads_a_model_reads_gguf() {
    let place = place();
    place.fine("verify m.gguf");
    place.fine("inspect m.gguf");
    place.fine("densify m.gguf dense");
    for file in ["config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja"] {
        assert!(place.path("dense").join(file).exists(), "{file}");
    }
    place.fine("diff m.gguf dense").says(&["no difference"]);
    place.fine("sparsify m.gguf sparse --sparsity 0.5 --block 16");
    place.fine("one-shot m.gguf shot --method wanda-corrected --sparsity 0.5 --block 16 --corpus text.txt --context 32 --sequences 2");
    place.fine("one-shot m.gguf streamed --sparsity 0.5 --block 16 --corpus text.txt --context 32 --sequences 2 --stream");
    place.fine("diff shot streamed").says(&["no difference"]);
    place.fine("verify streamed");
    place.fine("compact m.gguf compact");
    let run = "--corpus text.txt --context 16 --batch 1 --steps 2";
    place.fine(&format!(
        "fine-tune m.gguf tuned {run} --sparsity 0.5 --block 16 --interval 1 --teacher m.gguf"
    ));
    place.fine("activations m.gguf norms --corpus text.txt --tokens 40");
    for model in ["m.gguf", "dense", "sparse", "shot", "compact", "tuned"] {
        place.fine(&format!("perplexity {model} --corpus text.txt --window 16"));
    }
    let rows = place.fine("measure m.gguf dense --corpus text.txt --context 16 --batch 1 --prefill 4 --decode 2 --rounds 1 --json");
    let rows = rows.json();
    assert_eq!(rows[0]["loss"], rows[1]["loss"]);
    let text = |model: &str| place.fine(&format!("generate {model} --prompt fox --max-new 4")).out;
    assert_eq!(text("m.gguf"), text("dense"));
    place.refused("sparsify m.gguf m.gguf --sparsity 0.5", &["m.gguf"]);
    place.put("cut.gguf", &fs::read(place.path("m.gguf")).unwrap()[..5000]);
    place.refused("generate cut.gguf --prompt fox", &["cut.gguf cannot be read"]);
}

#[test]
fn a_conversation_goes_through_the_template_of_the_model() {
    let place = place();
    let answer = place.fine("generate m.gguf --prompt fox --chat --max-new 3").out;
    let other = place.fine("generate m.gguf --prompt fox --chat --system brief --max-new 3").out;
    assert!(!answer.contains("fox") && !answer.contains("user"), "{answer}");
    assert_ne!(answer, other);
    place.refused("generate m.gguf --prompt fox --system brief", &["--chat"]);
    place.fine("densify m.gguf dense");
    for file in ["chat_template.jinja", "tokenizer_config.json"] {
        fs::remove_file(place.path("dense").join(file)).unwrap();
    }
    place.refused("generate dense --prompt fox --chat", &["the model has no chat template"]);
}
