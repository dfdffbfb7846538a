//! Runs that are stopped, killed, resumed.
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use safetensors::{Dtype, SafeTensors};

use crate::common::{Place, Stored};
use crate::programs::{TEXT, place};

#[test]
fn an_interrupted_run_is_found_again_only_by_the_same_settings() {
    let place = place();
    let words =
        |more: &str| format!("fine-tune dense out {TEXT} --block 8 --steps 2 --interval 1 {more}");
    place.refused(&words("--resume"), &["no unfinished run"]);
    place.fine(&words(""));
    place.refused(&words("--resume --force"), &["no unfinished run"]);
    place.put("copy.txt", place.read("text.txt"));
    // As a run leaves it that was killed.
    let run = |more: &str| format!("dense new {TEXT} --batch 2 --weight-decay 0.03 {more}");
    let mut killed = place.start("", &run("--save-every 1 --eval-every 1 --steps 5000"));
    signal(&mut killed, "TERM");
    killed.wait_with_output().unwrap();
    let other = run("--steps 5001 --resume");
    place.refused(&other, &["other settings, train.steps 5000 instead of 5001"]);
    let moved = run("--steps 5000 --resume").replace("text.txt", "./copy.txt");
    let moved = moved.replace("dense new", "dense ./new") + " --save-every 2";
    let mut resumed = place.start("", &format!("{moved} --eval-every 1"));
    signal(&mut resumed, "TERM");
    assert_eq!(resumed.wait_with_output().unwrap().status.code(), Some(130));
}

/// Waits until a run has evaluated once, so that it trains, and sends it a signal.
fn signal(run: &mut Child, name: &str) {
    let mut lines = BufReader::new(run.stderr.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("held out")), "it evaluates after each step");
    let sent = Command::new("kill").args([&format!("-{name}"), &run.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// The signals that ask to stop, but for those that this process ignores, as under `nohup`: its children ignore them too.
fn heard() -> Vec<&'static str> {
    let is_ignored = |name: &&str| {
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} $$; exit 0")]).status();
        sent.unwrap().success()
    };
    let (ignored, heard): (Vec<_>, Vec<_>) =
        ["TERM", "HUP", "INT"].into_iter().partition(is_ignored);
    ignored.iter().for_each(|name| println!("SKIPPED {name}: this process ignores it"));
    assert!(heard.contains(&"TERM"));
    heard
}

#[test]
fn every_signal_that_asks_to_stop_saves_and_resume_ends_with_the_same_bytes() {
    let place = place();
    let words = |out: &str| {
        format!(
            "dense {out} {TEXT} --width 32 --hidden 64 --layers 1 --steps 60 --batch 1 --eval-every 1"
        )
    };
    place.fine(&words("whole"));
    for name in heard() {
        let mut run = place.start("", &words("parts"));
        signal(&mut run, name);
        // It may say more than the pipe holds.
        let ended = run.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        assert_eq!(ended.status.code(), Some(130), "{name}: {said}");
        assert!(said.contains("--resume resumes it"), "{name}: {said}");
        assert!(!place.path("parts").exists());
        place.fine(&format!("{} --resume", words("parts")));
        let read = |out: &str| std::fs::read(place.path(out).join("model.safetensors")).unwrap();
        assert!(read("parts") == read("whole"), "{name}");
        std::fs::remove_dir_all(place.path("parts")).unwrap();
    }
    // The exit code stays if nobody hears that it was stopped.
    let mut run = place.start("", &words("parts"));
    drop(run.stdout.take());
    signal(&mut run, "TERM");
    assert_eq!(run.wait_with_output().unwrap().status.code(), Some(130));
    std::fs::remove_dir_all(place.path("parts.run")).unwrap();
    // As `nohup` starts it.
    let mut run = place.start("trap '' HUP;", &words("parts"));
    signal(&mut run, "HUP");
    let ended = run.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(place.path("parts/model.safetensors").exists());
}

/// Kills a training run by SIGKILL and SIGTERM in turns, after random times, and resumes it. Every run must end with the
/// bytes of a run that was not killed. `BURN_BLAST_KILLS` sets the number of kills.
#[test]
fn kills_change_no_bit() {
    use std::time::Duration;

    use rand::{Rng, SeedableRng};

    let place = place();
    let words = |out: &str| {
        format!(
            "fine-tune dense {out} {TEXT} --block 8 --sparsity 0.5 --steps 400 --batch 1 --interval 5 --save-every 7 \
             --eval-every 50"
        )
    };
    place.fine(&words("whole"));
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let wanted = std::env::var("BURN_BLAST_KILLS").map_or(10, |kills| kills.parse().unwrap());
    let (mut kills, mut runs) = (0, 0);
    // The last run is left alone until it ends.
    while kills < wanted || runs == 0 {
        let unfinished = place.path("parts.run/log.json").exists();
        let resume = if unfinished { "--resume" } else { "" };
        let mut run = place.start("", &format!("{} {resume}", words("parts")));
        std::thread::sleep(Duration::from_millis(random.random_range(20..1500)));
        if kills < wanted && run.try_wait().unwrap().is_none() {
            let name = ["-KILL", "-TERM"][kills % 2];
            let _ = Command::new("kill").args([name, &run.id().to_string()]).status();
            kills += 1;
        }
        let ended = run.wait_with_output().unwrap();
        let code = ended.status.code();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!([None, Some(130), Some(0)].contains(&code), "{code:?}: {said}");
        if place.path("parts").exists() {
            for file in ["model.safetensors", "ledger.jsonl"] {
                let read = |out: &str| std::fs::read(place.path(out).join(file)).unwrap();
                assert!(read("whole") == read("parts"), "{file} after {kills} kills");
            }
            std::fs::remove_dir_all(place.path("parts")).unwrap();
            runs += 1;
        }
    }
    println!("{kills} kills, {runs} runs ended");
}

#[test]
fn a_second_process_does_not_train_in_the_same_folder() {
    let place = place();
    let words = format!("dense out {TEXT} --steps 5000 --batch 1 --eval-every 1 --save-every 1");
    let mut run = place.start("", &words);
    // One evaluation comes before the first checkpoint, the second one after it.
    let mut lines = BufReader::new(run.stderr.as_mut().unwrap()).lines();
    for _ in 0..2 {
        assert!(lines.any(|line| line.unwrap().contains("held out")));
    }
    place.refused(&format!("{words} --resume"), &["another process is training here"]);
    signal(&mut run, "TERM");
    assert_eq!(run.wait_with_output().unwrap().status.code(), Some(130));
}

#[test]
fn a_run_is_resumed_with_the_same_models_wherever_they_are() {
    let place = place();
    let words = |model: &str, teacher: &str| {
        let run = "--block 8 --batch 1 --interval 1 --steps 5000 --save-every 1 --eval-every 1";
        format!("fine-tune {model} out {TEXT} {run} --teacher {teacher}")
    };
    let mut run = place.start("", &words("dense", "dense"));
    signal(&mut run, "TERM");
    run.wait_with_output().unwrap();
    place.fine(&format!("dense other {TEXT} --steps 4 --batch 2 --width 32 --hidden 64 --layers 2 --heads 4 --seed 9"));
    let other = words("dense", "other") + " --resume";
    place.refused(&other, &["other settings, content of teacher"]);
    std::fs::rename(place.path("dense"), place.path("moved")).unwrap();
    let mut run = place.start("", &(words("./moved", "moved/") + " --resume"));
    signal(&mut run, "TERM");
    assert_eq!(run.wait_with_output().unwrap().status.code(), Some(130));
    // What was saved is damaged.
    let log: serde_json::Value = serde_json::from_str(&place.read("out.run/log.json")).unwrap();
    let model = format!("out.run/{}/model.bpk", log["checkpoint"].as_str().unwrap());
    place.put(&model, b"rubbish");
    let again = words("moved", "moved") + " --resume";
    place.refused(&again, &[&model, "remove its folder and start again"]);
}

#[test]
fn a_command_that_is_stopped_leaves_nothing_behind() {
    let place = Place::new();
    let weight = Stored { dtype: Dtype::F32, shape: vec![4096, 4096], bytes: vec![0; 4 << 24] };
    let tensors =
        || [("mlp.up_proj.weight", weight.clone()), ("mlp.down_proj.weight", weight.clone())];
    std::fs::create_dir(place.path("big")).unwrap();
    place.write("big/model.safetensors", tensors(), &[]);
    let parts = || {
        let entries = std::fs::read_dir(place.path("")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".part")).count()
    };
    for (name, input) in heard().into_iter().zip(["big", "big/model.safetensors", "big"]) {
        let mut run = place.start("", &format!("sparsify {input} out --sparsity 0.1 --dense"));
        let start = Instant::now();
        while parts() == 0 {
            assert!(start.elapsed() < Duration::from_secs(60) && run.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(1));
        }
        Command::new("kill").args([&format!("-{name}"), &run.id().to_string()]).status().unwrap();
        assert_eq!(run.wait().unwrap().code(), Some(130), "{name}");
        assert_eq!(parts(), 0, "{name}");
        assert!(!place.path("out").exists(), "{name}");
    }
    // Before a training run has begun, it ends at once too.
    place.put("text.txt", "the quick brown fox. ".repeat(1 << 19));
    let mut run = place.start("", &format!("dense new {TEXT} --width 2048 --layers 8"));
    std::thread::sleep(Duration::from_millis(100));
    Command::new("kill").args(["-TERM", &run.id().to_string()]).status().unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130));
    assert!(!place.path("new.run").exists());
}

#[test]
fn a_recovery_that_is_stopped_is_resumed_and_ends_with_the_same_bytes() {
    let place = place();
    std::fs::create_dir(place.path("more")).unwrap();
    std::fs::create_dir(place.path("mine.recover")).unwrap();
    place.put("more/text.txt", "pack my box with five dozen liquor jugs. ".repeat(40));
    let words = |out: &str| {
        format!(
            "recover dense {out} --corpus text.txt --corpus more/text.txt --block 8 --sparsity 0.5 --reconstruct-steps 3 \
             --steps 200 --context 16 --prefill 4 --decode 2 --rounds 1"
        )
    };
    let parts = [
        "dense",
        "cut",
        "reconstruct",
        "distil",
        "nats, held out of text",
        "50.0 %",
        "whole is written",
    ];
    place.fine(&words("whole")).says(&parts);
    assert!(!place.path("whole.recover").exists());
    place.refused(&words("whole"), &["is already there"]);
    let sized = |bytes: &str| words("sized").replace("--sparsity 0.5", &format!("--bytes {bytes}"));
    place.refused(&sized("1kB"), &["--bytes is 1.0 kB, but must be above"]);
    place.refused(&sized("many"), &["such as 120MB"]);
    place.fine(&sized("70kB").replace("--steps 200", "--steps 1"));
    let stored = std::fs::read(place.path("sized").join("model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&stored).unwrap();
    let bytes: usize = stored.tensors().iter().map(|(_, tensor)| tensor.data().len()).sum();
    assert!((64_000..=70_000).contains(&bytes), "{bytes}");
    let twice = words("twice").replace("more/text.txt", "text.txt");
    place.refused(&twice, &["--corpus text.txt is given twice"]);
    place.refused(
        &words("again").replace("dense again", "whole again"),
        &["is block-sparse already"],
    );
    // What no run has made is not touched.
    place.put("mine.recover/note.txt", "mine");
    place.refused(&words("mine"), &["\"note.txt\" is in it, which no run has made"]);
    assert_eq!(place.read("mine.recover/note.txt"), "mine");
    // A command that is refused leaves nothing.
    place.refused(&words("wrong").replace("--block 8", "--block 24"), &["24"]);
    place.refused(&words("wrong").replace("--steps 200", "--steps 0"), &["--steps is 0"]);
    assert!(!place.path("wrong.recover").exists());
    place.refused(&format!("{} --resume", words("other")), &["no unfinished run to resume"]);
    let mut run = place.start("", &words("parts"));
    signal(&mut run, "TERM");
    let ended = run.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    assert!(!place.path("parts").exists());
    place.refused(&words("parts"), &["an unfinished run: resume it"]);
    place.fine(&format!("{} --resume", words("parts")));
    let read = |out: &str| std::fs::read(place.path(out).join("model.safetensors")).unwrap();
    assert!(read("parts") == read("whole"));
    let report = std::fs::read_to_string(place.path("parts").join("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["texts"], serde_json::json!(["text", "more/text.txt"]));
    assert_eq!(report["rows"].as_array().unwrap().len(), 4);
}
