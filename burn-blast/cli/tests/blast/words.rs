//! What a user types and reads.

use crate::programs::{TEXT, place};

#[test]
fn settings_are_called_by_their_options() {
    let place = place();
    for (words, part) in [
        ("fine-tune dense out --steps 10", "--steps is 10, but must be at least --interval, or no"),
        (
            "fine-tune dense out --end-fraction 2",
            "--end-fraction is 2, but must be between 0 and 1",
        ),
        ("fine-tune dense out --growth-fraction 2", "--growth-fraction is 2, but"),
        ("fine-tune dense out --batch 0", "--batch is 0, but must be at least 1"),
        ("one-shot dense out --sparsity 1", "--sparsity is 1, but must be"),
    ] {
        place.refused(&format!("{words} {TEXT}"), &[part]);
    }
}

#[test]
fn a_prompt_may_look_like_an_option() {
    let place = place();
    for prompt in ["-hello", "--the"] {
        let said = place.fine(&format!("generate dense --prompt {prompt} --max-new 3")).out;
        assert!(said.starts_with(prompt), "{said}");
    }
    let long = "x".repeat(3000);
    let refused = place.run(&format!("generate dense --prompt {long}"));
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains("do not fit") && refused.err.len() < 200, "{}", refused.err);
}

#[test]
fn a_share_that_small_weights_cannot_reach_is_told() {
    let place = place();
    let part = " instead of 90.0 %: a weight keeps whole blocks, at least one";
    place.fine("sparsify dense few --block 32").says(&["50.0 % of blocks removed", part]);
    place.fine("one-shot dense few2 --block 32 --method magnitude").says(&[part]);
    let plain = place.fine("sparsify dense many --block 8 --sparsity 0.5").out;
    assert!(!plain.contains("instead of"), "{plain}");
}

#[test]
fn a_configuration_as_python_writes_it_is_read_and_kept() {
    let place = place();
    let config = place.read("dense/config.json");
    let with = config.replacen('{', "{ \"time_step_limit\": [0.0, Infinity],", 1);
    place.put("dense/config.json", with.replace("\"hidden_size\": 32", "\"hidden_size\": 32.0"));
    place.fine("one-shot dense sparse --block 8 --method magnitude");
    let kept = place.read("sparse/config.json");
    assert!(kept.contains("Infinity\n"), "{kept}");
    place.fine("generate sparse --prompt x --max-new 1");
    place.put("dense/config.json", config.replace("\"hidden_size\": 32", "\"hidden_size\": NaN"));
    place.refused("generate dense --prompt x", &["config.json", "hidden_size"]);
}

#[test]
#[cfg(unix)]
fn a_disk_that_is_full_is_no_damaged_file() {
    let place = place();
    let run = "--steps 2 --batch 1 --interval 1";
    for words in [
        "sparsify dense out --block 8 --sparsity 0.1".to_owned(),
        "one-shot dense out --block 8 --sparsity 0.1 --method magnitude".to_owned(),
        format!("fine-tune dense out --block 8 --sparsity 0.1 {TEXT} {run}"),
        format!("dense out {TEXT} {run}").replace(" --interval 1", ""),
    ] {
        // Larger files are refused by the system, as on a full disk.
        let full = place.start("trap '' XFSZ; ulimit -f 20;", &words);
        let output = full.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words}: {said}");
        let error = said.lines().last().unwrap();
        assert!(error.contains("File too large") && error.contains("out"), "{words}: {error}");
        assert!(!error.contains("damaged") && !error.contains("at path"), "{words}: {error}");
        assert!(!place.path("out").exists());
        place.no_rubbish();
    }
}

#[test]
fn a_plot_of_a_single_model_is_refused_before_anything_is_measured() {
    let place = place();
    place
        .refused(&format!("measure dense {TEXT} --svg plot.svg"), &["--svg", "two models or more"]);
}

#[test]
#[cfg(unix)]
fn what_is_not_there_is_told_by_what_it_may_be() {
    let place = place();
    let repository = "hf download NAME --local-dir FOLDER";
    for words in ["sparsify owner/name out", "verify owner/name", "inspect owner/name"] {
        place.refused(words, &["owner/name is not there", repository]);
    }
    place.refused("generate owner/name --prompt x", &[repository]);
    std::os::unix::fs::symlink(place.path("gone"), place.path("link.safetensors")).unwrap();
    place.refused("verify link.safetensors", &["is a link that leads nowhere"]);
    let weights = place.path("dense/model.safetensors");
    std::fs::remove_file(&weights).unwrap();
    std::os::unix::fs::symlink(place.path("gone"), &weights).unwrap();
    for words in ["sparsify dense out", "generate dense --prompt x"] {
        let said = place.run(words).err;
        assert!(said.contains("leads nowhere"), "{words}: {said}");
    }
}
