//! `blast` as a user runs it: from a text to a sparse model, and what it refuses.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

/// Every training run and calibration of this file.
const TEXT: &str = "--corpus text.txt --context 16";

/// A folder in which programs run, with a text in it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let text = "the quick brown fox jumps over the lazy dog. ".repeat(40);
        std::fs::write(place.path().join("text.txt"), text).unwrap();
        Self(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What `blast` prints to standard output; it must succeed.
    fn fine(&self, words: &str) -> String {
        let (code, out, err) = self.run(words);
        assert_eq!(code, 0, "{words}: {err}");
        out
    }

    /// `blast` must refuse, with a message that has this part.
    fn refused(&self, words: &str, part: &str) {
        let (code, out, err) = self.run(words);
        assert!(code == 2 && err.contains(part), "{words}: {code}, {err}");
        assert_eq!(out, "", "{words}");
    }

    fn run(&self, words: &str) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blast"));
        let output =
            command.args(words.split_whitespace()).current_dir(self.0.path()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// A small dense model, trained for a few steps.
    fn dense(&self) {
        let sizes = "--width 32 --hidden 64 --layers 2 --heads 4 --kv-heads 2";
        let run = "--steps 4 --batch 2 --eval-every 4 --save-every 4";
        self.fine(&format!("dense dense {TEXT} {sizes} {run}"));
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn from_a_text_to_sparse_adapted_and_merged_models() {
    let place = Place::new();
    place.dense();
    let blocks = "--sparsity 0.5 --block 8";
    let run = "--steps 6 --batch 2 --eval-every 6 --save-every 6 --warm-up 1";
    place.fine(&format!("one-shot dense sparse {blocks} {TEXT} --sequences 8"));
    let teacher = "--teacher dense --hidden-states 0.1 --dtype bf16 --interval 2";
    place.fine(&format!("fine-tune dense tuned {blocks} {TEXT} {run} {teacher}"));
    assert_eq!(json(&place.path("tuned/config.json"))["torch_dtype"], "bfloat16");
    assert_eq!(
        json(&place.path("tuned/recover.json"))["settings"]["train"]["device"]["dtype"],
        "bf16"
    );
    assert!(
        json(&place.path("dense/recover.json"))["settings"]["train"]["device"]["dtype"].is_null()
    );
    place.fine(&format!("fine-tune sparse adapted {TEXT} {run} --lora 4"));
    place.fine("merge adapted merged");
    let lost = place.fine("merge adapted within --within");
    assert!(lost.contains("is outside the blocks and lost"), "{lost}");

    let all = "dense sparse tuned adapted merged within";
    let timing = "--prefill 8 --decode 2 --rounds 1 --svg plot.svg --json";
    let rows = place.fine(&format!("measure {all} {TEXT} {timing}"));
    let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
    let number = |name: &str, key: &str| -> f64 {
        let row = rows.iter().find(|row| row["name"] == name).unwrap();
        row[key].as_f64().unwrap()
    };
    for (name, sparsity) in [
        ("dense", 0.0),
        ("sparse", 0.5),
        ("tuned", 0.5),
        ("adapted", 0.5),
        ("merged", 0.0),
        ("within", 0.5),
    ] {
        assert_eq!(number(name, "mlp_sparsity"), sparsity, "{name}");
        assert!(number(name, "loss").is_finite(), "{name}");
    }
    assert!((number("adapted", "loss") - number("merged", "loss")).abs() < 1e-4);
    assert!(number("adapted", "loss") < number("sparse", "loss"));
    assert!(number("adapted", "bytes") > number("sparse", "bytes"));

    assert!(place.fine("generate adapted --prompt the --max-new 3").starts_with("the"));
    assert!(
        place.fine("perplexity tuned --corpus text.txt --window 32").starts_with("perplexity ")
    );
    let speed = place.fine("bench adapted --prefill 8 --decode 2 --rounds 1 --compact");
    assert!(speed.contains("6 of 14 linear layers block-sparse, "), "{speed}");
    let small = place.fine("bench tuned --prefill 8 --decode 2 --rounds 1 --int8");
    assert!(small.contains(" and 8-bit integers"), "{small}");
    let score = |more: &str| -> f64 {
        let words = format!("perplexity tuned --corpus text.txt --window 32 {more}");
        let text = place.fine(&words);
        text.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let (plain, integers) = (score(""), score("--int8"));
    assert!(plain != integers && (plain / integers).ln().abs() < 0.01, "{plain}, {integers}");
    let norms = place.fine("activations dense norms --corpus text.txt --tokens 100");
    assert_eq!(norms, "norms is written: 6 weights, 100 tokens\n");
    let sizes = place.fine("compact sparse");
    assert!(sizes.contains("parameters, compacted from"), "{sizes}");
    place.fine("compact dense compact");
    assert!(place.path("compact/model.safetensors").exists());
}

#[test]
fn an_interrupted_run_is_found_again_only_by_the_same_settings() {
    let place = Place::new();
    place.dense();
    let words =
        |more: &str| format!("fine-tune dense out {TEXT} --block 8 --steps 2 --interval 1 {more}");
    place.refused(&words("--resume"), "no unfinished run");
    place.fine(&words(""));
    place.refused(&words(""), "exists already");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let place = Place::new();
    place.dense();
    std::fs::write(place.path("short.txt"), "short").unwrap();
    for (name, setting, value) in
        [("wide", "hidden_size", 64), ("short", "max_position_embeddings", 8)]
    {
        let mut config = json(&place.path("dense/config.json"));
        config[setting] = Value::from(value);
        std::fs::create_dir(place.path(name)).unwrap();
        std::fs::write(place.path(name).join("config.json"), config.to_string()).unwrap();
    }
    let tune = format!("fine-tune dense out {TEXT}");
    for (words, part) in [
        ("--divergence=-1 --teacher dense", "divergence is -1"),
        ("--divergence 1", "--teacher <MODEL>"),
        ("--teacher-temperature 2", "--teacher <MODEL>"),
        ("--hidden-states 1", "--teacher <MODEL>"),
        ("--next-token 1", "--teacher <MODEL>"),
        ("--clip 0", "clip is 0"),
        ("--weight-decay=-1", "weight-decay is -1"),
        ("--next-token 0 --divergence 0 --teacher dense", "above 0"),
        ("--teacher-temperature 0 --teacher dense", "temperature is 0"),
        ("--teacher-temperature inf --teacher dense", "temperature is inf"),
        ("--sparsity 1", "sparsity is 1"),
        ("--block 7", "block size 7"),
        ("--growth-fraction 2", "growth_fraction is 2"),
        ("--interval 0", "interval is 0"),
        ("--dense-last 2", "dense-last is 2"),
        ("--steps 0", "steps is 0"),
        ("--lr 0", "lr is 0"),
        ("--teacher nowhere", "config.json"),
        ("--teacher wide --hidden-states 1", "64 features per layer, the student 32"),
        ("--teacher short", "made for 8 positions"),
        ("--lora 0", "lora is 0"),
        ("--lora 4", "no MLP weight of the model is block-sparse"),
        ("--lora 4 --sparsity 0.5", "cannot be used with"),
        ("--lora-alpha 4", "--lora <RANK>"),
    ] {
        place.refused(&format!("{tune} {words}"), part);
    }
    for (words, part) in [
        ("fine-tune dense out --corpus text.txt --context 2000", "made for 1024 positions"),
        ("one-shot dense out", "--corpus"),
        ("one-shot dense out --corpus text.txt --sequences 0", "at least 1"),
        ("one-shot dense dense --method magnitude", "exists already"),
        ("one-shot dense out --method magnitude --dense-last 99", "dense-last is 99"),
        ("one-shot dense out --method magnitude --sequences 8", "--sequences is only used with"),
        ("one-shot dense out --corpus text.txt --context 2000", "made for 1024 positions"),
        ("merge dense out", "there is nothing to merge"),
        ("merge dense dense", "exists already"),
        ("measure dense --corpus short.txt", "too few for sequences"),
        ("measure dense --corpus text.txt --rounds 0", "rounds is 0"),
        ("measure dense --corpus text.txt --batch 0", "at least 1"),
        ("measure dense --corpus text.txt --context 0", "at least 1"),
        ("measure dense --corpus text.txt --context 2000", "made for 1024 positions"),
        ("measure dense --corpus text.txt --prefill 2000", "made for 1024 positions"),
        ("dense out --corpus nowhere.txt", "nowhere.txt cannot be read"),
        ("dense out --corpus text.txt --heads 3", "num_key_value_heads = 2 does not divide"),
    ] {
        place.refused(words, part);
    }
    for (words, part) in [
        ("generate nowhere --prompt a", "a model is a folder with config.json"),
        ("generate dense --prompt a --top-p 0", "top-p is 0"),
        ("perplexity dense --corpus nowhere.txt", "nowhere.txt"),
        ("perplexity dense --corpus text.txt --window 5000", "made for 1024 positions"),
        ("perplexity dense --corpus text.txt --stride 0", "stride is 0"),
        ("bench dense --rounds 0", "rounds is 0"),
        ("bench dense --prefill 5000", "made for 1024 positions"),
        ("activations dense norms --corpus nowhere.txt", "nowhere.txt"),
        ("activations dense norms --corpus text.txt --tokens 0", "the text is empty"),
        ("activations dense norms --corpus text.txt --window 0", "window is 0"),
        ("activations dense norms --corpus text.txt --compact", "--compact"),
        ("activations dense norms --corpus text.txt --int8", "--int8"),
        ("bench dense --int8", "the model has no block-sparse weight"),
        ("activations dense no/folder --corpus text.txt", "no/folder: "),
        ("compact dense dense", "exists already"),
        ("compact dense --dense", "<OUTPUT>"),
    ] {
        let (code, _, err) = place.run(words);
        assert!(code == 2 && err.contains(part), "{words}: {code}, {err}");
    }
    assert!(!place.path("out").exists() && !place.path("norms").exists());
}
