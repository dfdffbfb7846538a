//! What the commands on files refuse, and that the message says what to do.

use std::fs;

use safetensors::Dtype;

use crate::common::*;

#[test]
fn wrong_usage_is_answered_with_help() {
    let place = Place::new();
    for (words, part) in [
        ("", "Usage"),
        ("sparsify", "Usage"),
        ("sparsify a b --budget best", "possible values"),
        ("sparsify a b --include (", "--include"),
        ("sparsify a b --score wanda", "--activations"),
        ("inspect a --orientation in-out", "--block <SIDE>"),
        ("inspect a --force", "--svg <DIR>"),
    ] {
        place.refused(words, &[part]);
    }
}

#[test]
fn an_input_that_is_not_there_or_not_clear_is_named() {
    let place = Model::one_file();
    place.refused("sparsify missing out", &["missing is not there: check the path"]);
    fs::create_dir(place.path("empty")).unwrap();
    place.refused("verify empty", &["holds no safetensors file", "give a file"]);
    let file = place.path("dense/model.safetensors");
    fs::copy(&file, place.path("dense/other.safetensors")).unwrap();
    fs::rename(&file, place.path("dense/first.safetensors")).unwrap();
    let parts = ["several safetensors files", "first.safetensors, other.safetensors", "name one"];
    place.refused("inspect dense", &parts);
}

#[test]
fn damaged_files_are_refused() {
    let (place, file) = (Model::one_file(), "dense/model.safetensors");
    let whole = fs::read(place.path(file)).unwrap();
    for length in [0, 5, 40, whole.len() - 1] {
        place.put(file, &whole[..length]);
        let parts = [&format!("has {length} bytes"), "truncated or damaged", "fetch it again"];
        place.refused("sparsify dense out", &parts);
    }
    place.put(file, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
    place.refused("sparsify dense out", &["a pointer of git-lfs", "git lfs pull"]);
    fs::create_dir_all(place.path("models--a--b/snapshots/0")).unwrap();
    place.refused("sparsify models--a--b out", &["the root of a model in a cache", "snapshots"]);
    let mut garbled = whole;
    garbled[8] = b'x';
    place.put(file, garbled);
    place.refused("densify dense out", &["is not a safetensors file", "header"]);
    assert!(!place.path("out").exists());
}

#[test]
fn numbers_that_are_not_finite_are_named() {
    let place = Model::one_file();
    let name = "model.layers.1.mlp.up_proj.weight";
    for (at, bits) in [(0, 0x7fc0_u16), (4321, 0x7f80), (10239, 0xff80)] {
        let mut tensors = place.tensors("dense");
        tensors.get_mut(name).unwrap().bytes[2 * at..2 * at + 2]
            .copy_from_slice(&bits.to_le_bytes());
        fs::create_dir_all(place.path("bad")).unwrap();
        place.write("bad/model.safetensors", tensors, &[("format", "pt")]);
        let part = format!("\"{name}\" is infinite or not a number at element {at}");
        place.refused("sparsify bad out --block 16 --sparsity 0.5", &[&part, "damaged"]);
        place.finds("verify bad", &[&part]);
    }
    // Finite numbers whose squares are not.
    let mut tensors = place.tensors("dense");
    let stored = tensors.get_mut(name).unwrap();
    stored.bytes = 0x7f00_u16.to_le_bytes().repeat(stored.bytes.len() / 2);
    place.write("bad/model.safetensors", tensors, &[("format", "pt")]);
    place.refused("sparsify bad out --block 16", &[name, "too large to rank"]);
}

#[test]
fn the_files_count_where_the_index_says_something_else() {
    let place = Model::small(Family::Llama, Dtype::BF16).place();
    let index = "dense/model.safetensors.index.json";
    let text = place.read(index);
    place.fine("sparsify dense expected --block 16");
    let expected = place.tensors("expected");
    let loads = |text: &str, parts: &[&str]| {
        place.put(index, text);
        let said = place.fine("sparsify dense out --block 16 --force").err;
        for part in parts {
            assert!(said.contains(part), "no \"{part}\" in {said}");
        }
        assert!(place.tensors("out") == expected, "{said}");
        place.finds("verify dense", parts);
        // What is written is right.
        place.fine("verify out");
    };
    loads(&text.replace("model.norm", "model.norms"), &["which it does not", "fetch both"]);
    let norm = |file| format!("\"model.norm.weight\": \"model-0000{file}");
    loads(&text.replace(&norm(1), &norm(2)), &["does not say that model-00001"]);
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("layers.0.mlp")).collect();
    loads(&lines.join("\n"), &["does not say", "layers.0.mlp.down_proj.weight\" and 2 more"]);
    let refuses = |text: &str, parts: &[&str]| {
        place.put(index, text);
        place.refused("sparsify dense out2 --block 16", parts);
    };
    let elsewhere = ["is not in its folder", "names of files in it"];
    refuses(&text.replace("model-00001", "../model-00001"), &elsewhere);
    refuses(&text.replace("model-00001", "below/../../model-00001"), &elsewhere);
    refuses(&text.replace("model-00001", "/model-00001"), &elsewhere);
    refuses("[]", &["is not an index of safetensors files"]);
    refuses("{\"weight_map\": {}}", &["names no tensor"]);
    // Other spellings of names, and folders below.
    place.put(index, text.replace("model-00001", ".//model-00001"));
    assert_eq!(place.fine("sparsify dense out --block 16 --force").err, "");
    assert!(place.tensors("out") == expected);
    let first = "model-00001-of-00003.safetensors";
    fs::create_dir(place.path("dense/below")).unwrap();
    let (above, below) = (format!("dense/{first}"), format!("dense/below/{first}"));
    fs::rename(place.path(&above), place.path(&below)).unwrap();
    place.put(index, text.replace("model-00001", "./below/model-00001"));
    assert_eq!(place.fine("sparsify dense out --block 16 --force").err, "");
    place.fine("verify out");
    assert!(place.path(&format!("out/below/{first}")).exists());
    fs::rename(place.path(&below), place.path(&above)).unwrap();
    // A checkpoint with all its files in folders below is one that --force replaces.
    for entry in fs::read_dir(place.path("dense")).unwrap() {
        let name = entry.unwrap().file_name();
        if name.to_string_lossy().ends_with(".safetensors") {
            fs::rename(place.path("dense").join(&name), place.path("dense/below").join(&name))
                .unwrap();
        }
    }
    place.put(index, text.replace("model-0", "below/model-0"));
    for _ in 0..2 {
        place.fine("sparsify dense out --block 16 --force");
    }
    for entry in fs::read_dir(place.path("dense/below")).unwrap() {
        let name = entry.unwrap().file_name();
        fs::rename(place.path("dense/below").join(&name), place.path("dense").join(&name)).unwrap();
    }
    place.put(index, &text);
    let (lost, aside) = ("dense/model-00002-of-00003.safetensors", place.path("aside"));
    fs::rename(place.path(lost), &aside).unwrap();
    place.refused("sparsify dense out", &["model-00002", "is not there: check the path, or fetch"]);
    fs::rename(&aside, place.path(lost)).unwrap();
    // The same tensor in two files, one of which the index does not mean.
    let mut doubled = place.tensors(lost);
    let norm = place.tensors("dense")["model.norm.weight"].clone();
    doubled.insert("model.norm.weight".to_string(), norm);
    place.write(lost, doubled, &[]);
    place.finds("verify dense", &["do not belong to one checkpoint"]);
}

#[test]
fn outputs_are_not_overwritten() {
    let place = Model::one_file();
    fs::create_dir(place.path("out")).unwrap();
    place.put("out/thesis.tex", "precious");
    place.put("one.safetensors", "precious");
    let (there, file) = (["already there", "--force"], "dense/model.safetensors");
    let folder = ["is not a checkpoint folder", "give another name"];
    let overlap = ["is in the input, or holds it", "somewhere else"];
    for (words, parts) in [
        ("dense out", &there[..]),
        ("dense out --force", &folder),
        (&format!("{file} out --force"), &["is not a file"]),
        (&format!("{file} one.safetensors"), &there),
        ("dense dense --force", &overlap),
        ("dense dense/inside --force", &overlap),
        ("dense . --force", &overlap),
        (&format!("{file} {file} --force"), &overlap),
        ("dense no/such/folder", &["cannot write"]),
    ] {
        place.refused(&format!("sparsify --block 16 {words}"), parts);
    }
    place.refused(&format!("densify {file} one.safetensors"), &there);
    assert_eq!(place.read("out/thesis.tex"), "precious");
    assert_eq!(place.read("one.safetensors"), "precious");
}

#[test]
fn a_folder_that_appears_while_blast_works_is_not_replaced() {
    let (place, out) = (Model::one_file(), "out/thesis.tex");
    let source = burn_blast_checkpoint::Source::find(&place.path("dense")).unwrap();
    let output = burn_blast_checkpoint::Output::new(&source, &place.path("out"), false).unwrap();
    fs::create_dir(place.path("out")).unwrap();
    place.put(out, "precious");
    let error = output.finish().unwrap_err().to_string();
    assert!(error.contains("already there") && error.contains("--force"), "{error}");
    assert_eq!(place.read(out), "precious");
    place.no_rubbish();
}

#[test]
fn filters_that_match_nothing_list_what_there_is() {
    let place = Model::one_file();
    for (options, parts) in [
        ("--include ffn", &["--include \"ffn\" matches no weight", "mlp.down_proj", "more"][..]),
        // It matches a tensor, but not one with two axes.
        ("--include norm", &["--include \"norm\" matches no weight"]),
        ("--exclude ffn", &["--exclude \"ffn\" matches no weight"]),
        ("--exclude mlp", &["nothing is left to prune", "--exclude matches every weight"]),
        ("--dense-last 2", &["nothing is left to prune", "--dense-last 2 keeps every layer"]),
        ("--include embed --dense-last 1", &["counts layers by the number in a name"]),
    ] {
        place.refused(&format!("sparsify dense out --block 16 {options}"), parts);
    }
    place.write("plain.safetensors", [("w", Stored::f32(&[8, 8], &[0.0; 64]))], &[]);
    place.refused("sparsify plain.safetensors out", &["choose with --include", "are: w"]);
}

#[test]
fn numbers_out_of_range_are_refused() {
    let place = Model::one_file();
    for (options, parts) in [
        ("--sparsity 1", &["--sparsity is 1, but must be at least 0 and below 1"][..]),
        ("--sparsity=-0.1", &["--sparsity is -0.1"]),
        ("--block 24", &["block size 24 is not supported", "8, 16, 32, 64 or 128"]),
        ("--budget global --min-density 0.2", &["--min-density is 0.2", "1 - sparsity"]),
        ("--budget global --max-density 0.05", &["--max-density is 0.05", "1 - sparsity"]),
        ("--min-density 0.05", &["--min-density is only used with --budget global"]),
        ("--max-density 0.5", &["--max-density is only used with --budget global"]),
        ("--activations x", &["--activations is only used with --score wanda"]),
        ("--block 128", &["is 64 x 160", "less than a block of 128", "--exclude"]),
    ] {
        place.refused(&format!("sparsify dense out {options}"), parts);
    }
    place.refused("inspect dense --block 7", &["block size 7 is not supported"]);
}

#[test]
fn types_without_arithmetic_and_names_that_are_taken_are_refused() {
    let place = Place::new();
    let quantised = Stored { dtype: Dtype::I8, shape: vec![8, 8], bytes: vec![1; 64] };
    place.write("a.safetensors", [("mlp.up_proj.weight", quantised)], &[]);
    let parts = ["holds I8", "only F32, F16 and BF16", "--exclude"];
    place.refused("sparsify a.safetensors b.safetensors --block 8", &parts);
    let weight = Stored::f32(&[8, 8], &[1.0; 64]);
    place.write("a.safetensors", [("w", weight.clone()), ("w.values", weight)], &[]);
    let parts = ["a tensor \"w.values\" already", "--exclude"];
    place.refused("sparsify a.safetensors b.safetensors --block 8 --include ^w$", &parts);
}

#[test]
fn activations_that_do_not_fit_are_refused() {
    let place = Place::new();
    place.write("a.safetensors", [("w", Stored::f32(&[8, 16], &[1.0; 128]))], &[]);
    let bad = |at_3: f32| {
        let mut norms = [1.0; 16];
        norms[3] = at_3;
        Stored::f32(&[16], &norms)
    };
    for (name, norms, parts) in [
        ("v", bad(1.0), ["entry \"w\": is missing", "--exclude"]),
        ("w", Stored::f32(&[8], &[1.0; 8]), ["F32 of [8]", "must be F32 of [16]"]),
        ("w", Stored::i32(&[1; 16]), ["I32 of [16]", "must be F32"]),
        ("w", bad(-1.0), ["holds -1 at 3", "not a norm"]),
        ("w", bad(f32::NAN), ["holds NaN at 3", "not a norm"]),
    ] {
        place.write("norms", [(name, norms)], &[]);
        let options = "--block 8 --include w --score wanda --activations norms";
        place.refused(&format!("sparsify a.safetensors b.safetensors {options}"), &parts);
    }
}

#[test]
fn densify_needs_something_packed_and_nothing_twice() {
    let place = Model::one_file();
    place.refused("densify dense out", &["no block-sparse weight", "blast sparsify"]);
    place.fine("sparsify dense out --block 16");
    let mut both = place.tensors("out");
    let name = "model.layers.0.mlp.up_proj.weight";
    both.insert(name.to_string(), place.tensors("dense")[name].clone());
    place.write("out/model.safetensors", both, &[]);
    place.refused("densify out again", &["both dense and packed", "remove one"]);
}
