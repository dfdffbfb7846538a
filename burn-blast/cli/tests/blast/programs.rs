//! `blast` as a user runs it: from a text to a sparse model, and what it refuses.

use std::process::Command;

use serde_json::Value;

use crate::common::Place;

/// Every training run and calibration of this file.
pub const TEXT: &str = "--corpus text.txt --context 16";

/// A place with a text, and a small dense model that was trained on it for a few steps.
pub fn place() -> Place {
    let place = Place::new();
    place.put("text.txt", "the quick brown fox jumps over the lazy dog. ".repeat(40));
    let sizes = "--width 32 --hidden 64 --layers 2 --heads 4 --kv-heads 2";
    let run = "--steps 4 --batch 2 --eval-every 4 --save-every 4";
    place.fine(&format!("dense dense {TEXT} {sizes} {run}"));
    place
}

fn json(place: &Place, name: &str) -> Value {
    serde_json::from_str(&place.read(name)).unwrap()
}

#[test]
fn from_a_text_to_sparse_adapted_and_merged_models() {
    let place = place();
    let blocks = "--sparsity 0.5 --block 8";
    let run = "--steps 6 --batch 2 --eval-every 6 --save-every 6 --warm-up 1";
    let method = "--method wanda-corrected --sequences 8";
    place.fine(&format!("one-shot dense sparse {blocks} {TEXT} {method}")).says(&[
        "sparse is written, 50.0 % of the blocks of its block-sparse weights removed; ",
        " of tensors, the input has ",
    ]);
    let teacher = "--teacher dense --hidden-states 0.1 --dtype bf16 --interval 2";
    place.fine(&format!("fine-tune dense tuned {blocks} {TEXT} {run} {teacher}"));
    assert_eq!(json(&place, "tuned/config.json")["torch_dtype"], "bfloat16");
    place.fine(&format!("dense half {TEXT} --layers 1 --steps 2 --batch 1 --dtype bf16"));
    assert_eq!(json(&place, "half/config.json")["torch_dtype"], "bfloat16");
    // What is computed in f32 is written in the type of the input.
    for words in [
        format!("one-shot half brief {blocks} --method magnitude"),
        format!("fine-tune half brief {blocks} {TEXT} --steps 2 --batch 1 --interval 1"),
    ] {
        place.fine(&format!("{words} --force"));
        assert_eq!(json(&place, "brief/config.json")["torch_dtype"], "bfloat16", "{words}");
        place.fine(&format!("{words} --force --dtype f32"));
        assert_eq!(json(&place, "brief/config.json")["torch_dtype"], "float32", "{words}");
    }
    assert_eq!(json(&place, "tuned/recover.json")["settings"]["train"]["device"]["dtype"], "bf16");
    assert!(json(&place, "dense/recover.json")["settings"]["train"]["device"]["dtype"].is_null());
    // Blocks of 8 and half of them removed, as in the model.
    place.fine(&format!("fine-tune sparse longer {TEXT} {run} --interval 2"));
    place.fine(&format!("fine-tune sparse adapted {TEXT} {run} --lora 4"));
    // Whole groups of features: half of them, which compaction removes.
    let groups = "--structure groups --interval 4";
    place.fine(&format!("fine-tune dense grouped {blocks} {TEXT} {run} {groups}"));
    place.fine("compact grouped narrow");
    assert_eq!(json(&place, "narrow/config.json")["intermediate_size"], 32);
    for (words, part) in [
        ("fine-tune sparse out --block 16", "model.layers.0.mlp.gate_proj is block-sparse already"),
        ("fine-tune sparse out --lora 4 --lora-alpha 0", "lora-alpha is 0"),
        ("fine-tune adapted out", "merge them first"),
    ] {
        place.refused(&format!("{words} {TEXT}"), &[part]);
    }
    place.fine("merge adapted merged");
    place.fine("merge adapted within --within").says(&["is outside the blocks and lost"]);

    let all = "dense sparse tuned longer adapted merged within";
    let timing = "--prefill 8 --decode 2 --rounds 1 --svg plot.svg --json";
    let rows = place.fine(&format!("measure {all} {TEXT} {timing}")).json();
    let number = |name: &str, key: &str| -> f64 {
        let row = rows.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
        row[key].as_f64().unwrap()
    };
    for (name, sparsity) in [
        ("dense", 0.0),
        ("sparse", 0.5),
        ("tuned", 0.5),
        ("longer", 0.5),
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

    assert!(place.fine("generate adapted --prompt the --max-new 3").out.starts_with("the"));
    let speed = "--prefill 8 --decode 2 --rounds 1";
    let compact = place.fine(&format!("bench adapted {speed} --compact"));
    compact.says(&["6 of 14 linear layers block-sparse, "]);
    for bits in [8, 4] {
        let told = format!(" and {bits}-bit integers");
        place.fine(&format!("bench tuned {speed} --int{bits}")).says(&[&told]);
    }
    let score = |more: &str| -> f64 {
        let text = place.fine(&format!("perplexity tuned --window 32 --corpus {more}")).out;
        text.strip_prefix("perplexity ").unwrap().split('\n').next().unwrap().parse().unwrap()
    };
    let (plain, integers) = (score("text.txt"), score("text.txt --int8"));
    assert!(plain != integers && (plain / integers).ln().abs() < 0.01, "{plain}, {integers}");
    let fewer = score("text.txt --int4");
    assert!(plain != fewer && (plain / fewer).ln().abs() < 0.1, "{plain}, {fewer}");
    let line = serde_json::json!({ "text": place.read("text.txt") });
    place.put("text.jsonl", line.to_string());
    assert_eq!(score("text.jsonl"), plain);
    let norms = place.fine("activations dense norms --corpus text.txt --tokens 100").out;
    assert_eq!(norms, "norms is written: 6 weights, 100 tokens\n");
    place.fine("compact sparse").says(&["parameters, compacted from"]);
    place.fine("compact dense compact");
    assert!(place.path("compact/model.safetensors").exists());
}

#[test]
fn an_output_is_replaced_only_with_force_and_only_by_its_like() {
    let place = place();
    place.put("dense/stale", "");
    let run = format!("{TEXT} --steps 2 --block 8 --interval 1");
    for (words, output) in [
        (format!("dense OUT {run}").replace("--block 8 --interval 1", ""), "a"),
        (format!("fine-tune dense OUT {run}"), "a"),
        ("one-shot dense OUT --method magnitude --sparsity 0.5 --block 8".to_string(), "a"),
        ("compact dense OUT".to_string(), "b"),
        ("activations dense OUT --corpus text.txt --tokens 100".to_string(), "norms"),
        (format!("measure dense a --svg OUT {TEXT} --prefill 8 --decode 2"), "plot.svg"),
    ] {
        let words = words.replace("OUT", output);
        if !place.path(output).exists() {
            place.fine(&words);
        }
        place.refused(&words, &["already there", "--force"]);
        place.fine(&format!("{words} --force"));
    }
    std::fs::create_dir(place.path("notes")).unwrap();
    place.put("notes/thesis.tex", "precious");
    for (output, part) in [("notes", "is not a checkpoint folder"), ("dense", "is in the input")] {
        place.refused(&format!("fine-tune dense {output} {run} --force"), &[part]);
    }
    assert!(place.path("dense/stale").exists() && place.path("notes/thesis.tex").exists());
}

#[test]
#[cfg(unix)]
fn a_run_goes_on_when_nobody_reads_any_more() {
    let place = place();
    let words = "dense out --width 32 --hidden 64 --layers 1 --steps 20 --batch 1 --eval-every 1";
    let mut run = place.start("", &format!("{words} {TEXT}"));
    drop((run.stdout.take(), run.stderr.take()));
    assert!(run.wait().unwrap().success());
    assert!(place.path("out/model.safetensors").exists());
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_anything_is_read() {
    let place = place();
    for words in [
        "dense no/out --corpus nowhere.txt".to_owned(),
        format!("fine-tune dense no/out {TEXT} --block 8"),
        "one-shot dense no/out --method magnitude".to_owned(),
        "merge dense no/out".to_owned(),
        "compact dense no/out".to_owned(),
        "activations dense no/out --corpus nowhere.txt".to_owned(),
        "measure dense --svg no/plot.svg --corpus nowhere.txt".to_owned(),
        "densify dense no/out".to_owned(),
        "sparsify dense no/out".to_owned(),
    ] {
        place.refused(&words, &["cannot write no/"]);
    }
}

#[test]
fn a_corpus_is_not_written_over_or_into() {
    let place = place();
    std::fs::create_dir(place.path("texts")).unwrap();
    place.put("texts/a.txt", place.read("text.txt"));
    let text = "--corpus texts --context 16";
    for words in [
        format!("dense texts/out {text}"),
        format!("fine-tune dense texts/out {text} --block 8"),
        format!("one-shot dense texts/out {text} --block 8"),
        "activations dense texts/a.txt --force --corpus texts".to_owned(),
        "activations dense text.txt --force --corpus text.txt".to_owned(),
        format!("measure dense --svg texts/plot.svg {text}"),
    ] {
        place.refused(&words, &["is in the input, or holds it"]);
    }
    assert_eq!(place.read("texts/a.txt"), place.read("text.txt"));
}

#[test]
#[cfg(unix)]
fn a_name_that_is_not_unicode_works_everywhere() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let place = place();
    let bad = |name: &str| {
        let mut bytes = name.as_bytes().to_vec();
        bytes.push(0xe9);
        OsStr::from_bytes(&bytes).to_owned()
    };
    std::fs::copy(place.path("text.txt"), place.path("").join(bad("text"))).unwrap();
    std::fs::rename(place.path("dense"), place.path("").join(bad("dense"))).unwrap();
    let run = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blast"));
        for word in words {
            let bare = word.trim_start_matches('@');
            command.arg(if bare.len() < word.len() { bad(bare) } else { bare.into() });
        }
        let ended = command.current_dir(place.path("")).output().unwrap();
        assert!(ended.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ended.stderr));
    };
    run(&["sparsify", "@dense", "@packed", "--block", "8", "--sparsity", "0.5", "--json"]);
    run(&["densify", "@packed", "@again", "--json"]);
    run(&["inspect", "@packed", "--json"]);
    run(&["verify", "@packed", "--json"]);
    run(&["diff", "@packed", "@packed", "--json"]);
    run(&["compact", "@dense", "@compact", "--json"]);
    let tune = ["fine-tune", "@packed", "@tuned", "--corpus", "@text", "--context", "16"];
    run(&[&tune[..], &["--steps", "2", "--batch", "1", "--interval", "1", "--teacher", "@again"]]
        .concat());
    run(&["perplexity", "@tuned", "--corpus", "@text", "--json"]);
    run(&["measure", "@tuned", "--corpus", "@text", "--context", "16", "--prefill", "4", "--json"]);
    assert!(place.path("").join(bad("tuned")).join("recover.json").exists());
}

#[test]
fn other_files_of_the_folder_come_along_and_other_weights_do_not() {
    let place = place();
    std::fs::create_dir(place.path("dense/extra")).unwrap();
    for name in ["chat_template.jinja", "added_tokens.json", "extra/notes.md", "LICENSE"] {
        place.put(&format!("dense/{name}"), name);
    }
    for name in ["pytorch_model.bin", "model.gguf", ".gitattributes"] {
        place.put(&format!("dense/{name}"), name);
    }
    place.fine("one-shot dense out --method magnitude --sparsity 0.5 --block 8");
    for name in ["chat_template.jinja", "added_tokens.json", "extra/notes.md", "LICENSE"] {
        assert_eq!(place.read(&format!("out/{name}")), name);
    }
    for name in ["pytorch_model.bin", "model.gguf", ".gitattributes"] {
        assert!(!place.path(&format!("out/{name}")).exists(), "{name}");
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let place = place();
    place.put("short.txt", "short");
    place.put("broken.jsonl", "{\"text\": \"a\"}\n{\"txt\": 1}\n");
    for (name, setting, value) in
        [("wide", "hidden_size", 64), ("short", "max_position_embeddings", 8)]
    {
        let mut config = json(&place, "dense/config.json");
        config[setting] = Value::from(value);
        std::fs::create_dir(place.path(name)).unwrap();
        place.put(&format!("{name}/config.json"), config.to_string());
    }
    let tune = format!("fine-tune dense out {TEXT}");
    for (words, part) in [
        ("--divergence=-1 --teacher dense", "divergence is -1"),
        ("--divergence 1", "--teacher <MODEL>"),
        ("--teacher-temperature 2", "--teacher <MODEL>"),
        ("--hidden-states 1", "--teacher <MODEL>"),
        ("--next-token 1", "--teacher <MODEL>"),
        ("--clip 0", "clip is 0"),
        ("--clip nan", "clip is NaN"),
        ("--weight-decay=-1", "weight-decay is -1"),
        ("--next-token 0 --divergence 0 --teacher dense", "above 0"),
        ("--teacher-temperature 0 --teacher dense", "temperature is 0"),
        ("--teacher-temperature inf --teacher dense", "temperature is inf"),
        ("--sparsity 1", "sparsity is 1"),
        ("--block 7", "block size 7"),
        ("--growth-fraction 2", "--growth-fraction is 2"),
        ("--interval 0", "interval is 0"),
        ("--structure coupled --interval 2", "interval is 2"),
        ("--dense-last 2", "dense-last is 2"),
        ("--steps 0", "steps is 0"),
        ("--lr 0", "lr is 0"),
        ("--teacher nowhere", "cannot read nowhere"),
        ("--teacher wide --hidden-states 1", "64 features per layer, the student 32"),
        ("--teacher short", "made for 8 positions"),
        ("--lora 0", "lora is 0"),
        ("--lora 4", "no MLP weight of the model is block-sparse"),
        ("--lora 4 --sparsity 0.5", "cannot be used with"),
        ("--lora-alpha 4", "--lora <RANK>"),
    ] {
        place.refused(&format!("{tune} {words}"), &[part]);
    }
    for (words, part) in [
        ("fine-tune dense out --corpus text.txt --context 2000", "made for 1024 positions"),
        ("one-shot dense out", "--corpus <FILE|DIR>"),
        ("one-shot dense out --method wanda", "--corpus <FILE|DIR>"),
        ("one-shot dense out --corpus text.txt --sequences 0", "at least 1"),
        ("one-shot dense wide --method magnitude", "already there"),
        ("one-shot dense out --method magnitude --dense-last 99", "dense-last is 99"),
        ("one-shot dense out --method magnitude --corpus text.txt", "--corpus is only used with"),
        ("one-shot dense out --method magnitude --sequences 8", "--corpus <FILE|DIR>"),
        ("one-shot dense out --corpus text.txt --context 2000", "made for 1024 positions"),
        ("merge dense out", "there is nothing to merge"),
        ("merge dense wide", "already there"),
        ("measure dense --corpus short.txt", "too few for sequences"),
        ("measure dense --corpus text.txt --rounds 0", "rounds is 0"),
        ("measure dense --corpus text.txt --batch 0", "at least 1"),
        ("measure dense --corpus text.txt --context 0", "at least 1"),
        ("measure dense --corpus text.txt --context 2000", "made for 1024 positions"),
        ("measure dense --corpus text.txt --prefill 2000", "made for 1024 positions"),
        ("dense out --corpus nowhere.txt", "nowhere.txt: "),
        ("dense out --corpus text.txt --heads 3", "num_key_value_heads = 2 does not divide"),
        ("generate nowhere --prompt a", "a model is a folder with config.json"),
        ("generate dense --prompt a --top-p 0", "top-p is 0"),
        ("generate dense --prompt a --top-p 1.5", "top-p is 1.5, but must be above 0"),
        ("generate dense --prompt a --top-k 0", "top-k is 0, but must be at least 1"),
        ("generate dense --prompt a --temperature=-1", "temperature is -1"),
        ("perplexity dense --corpus nowhere.txt", "nowhere.txt"),
        ("perplexity dense --corpus broken.jsonl", "line 2 is not"),
        ("perplexity dense --corpus text.txt --window 5000", "made for 1024 positions"),
        ("perplexity dense --corpus text.txt --stride 0", "stride is 0"),
        ("perplexity dense --corpus text.txt --int8 --int4", "--int4"),
        ("perplexity dense --corpus text.txt --int4 --int8-products", "cannot be used with"),
        ("perplexity dense/config.json --corpus text.txt", "is a file: name the folder"),
        ("bench dense --rounds 0", "rounds is 0"),
        ("bench dense --prefill 5000", "made for 1024 positions"),
        ("activations dense norms --corpus nowhere.txt", "nowhere.txt"),
        ("activations dense norms --corpus text.txt --tokens 0", "the text is empty"),
        ("activations dense norms --corpus text.txt --window 0", "window is 0"),
        ("activations dense norms --corpus text.txt --compact", "--compact"),
        ("activations dense norms --corpus text.txt --int8", "--int8"),
        ("activations dense no/folder --corpus text.txt", "no/folder: "),
        ("compact dense wide", "already there"),
        ("compact dense --dense", "<OUTPUT>"),
    ] {
        place.refused(words, &[part]);
    }
    assert!(!place.path("out").exists() && !place.path("norms").exists());
}
