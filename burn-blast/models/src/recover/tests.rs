use std::collections::BTreeMap;

use burn::tensor::DType;

use super::*;
use crate::Model;
use crate::fine_tune::tests::{config, corpus, settings};

/// Settings of a short run.
fn short() -> Recover {
    Recover::new(Blocks::new(8).with_sparsity(0.5))
        .with_sequences(2)
        .with_context(16)
        .with_reconstruct_steps(6)
        .with_steps(Some(4))
}

/// A trained dense model in a folder.
fn dense(folder: &Path) -> ModelFolder {
    let path = folder.join("dense");
    let checkpoint = ModelFolder::new(config()).unwrap();
    let model = checkpoint.config().init_normal(&Device::flex(), 1).unwrap();
    let config = TrainConfig { steps: 40, ..settings() };
    let job = Job {
        config: &config,
        blast: None,
        settings: Value::Null,
        free: &[],
        out: &path,
        replace: false,
        form: Form::Dense,
        precision: Precision::of(DType::F32),
        resume: false,
    };
    let go = &mut |_: &Progress| ControlFlow::Continue(());
    assert!(job.run(&checkpoint, model, &corpus(), Objective::default(), go).unwrap());
    ModelFolder::open(path).unwrap()
}

/// Runs until `stop`, a step and how much of it is done; `None` runs to the end.
fn run(
    config: &Recover,
    dense: &ModelFolder,
    out: &Path,
    resume: bool,
    stop: Option<(Step, usize)>,
) -> Result<Option<Report>, Error> {
    let texts = [("foxes".to_owned(), corpus()), ("dogs".to_owned(), corpus())];
    let recovery = Recovery {
        config,
        dense,
        texts: &texts,
        device: Device::flex(),
        precision: Precision::F32,
        written: Precision::File,
        timing: Timing::new().with_prefill(8).with_decode(2).with_rounds(1),
        out,
        replace: false,
        resume,
    };
    recovery.run(&mut |tick| match stop == Some((tick.step, tick.done)) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    })
}

/// Files of a folder but those that hold times, or points of the loss curve, which is also read where a run stops.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let named = entries.map(|entry| {
        (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap())
    });
    let others = ["report.json", "report.html", "recover.json", "loss.svg", "training.svg"];
    named.filter(|(name, _)| !others.contains(&name.as_str())).collect()
}

#[test]
fn a_run_that_is_stopped_in_any_step_ends_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let dense = dense(folder.path());
    let out = |name: &str| folder.path().join(name);
    let config = short();
    let report = run(&config, &dense, &out("whole"), false, None).unwrap().unwrap();
    assert!(!out("whole.recover").exists());
    let stops = [(Step::Reconstruct, 3), (Step::Distil, 2)];
    for (at, stop) in stops.into_iter().enumerate() {
        let name = format!("broken-{at}");
        assert!(run(&config, &dense, &out(&name), false, Some(stop)).unwrap().is_none());
        assert!(!out(&name).exists());
        // The run knows that it is there, and with what.
        let again = run(&config, &dense, &out(&name), false, None).unwrap_err().to_string();
        assert!(again.contains("an unfinished run: resume it"), "{again}");
        let other = config.clone().with_lr(1e-2);
        let other = run(&other, &dense, &out(&name), true, None).unwrap_err().to_string();
        assert!(other.contains("other settings"), "{other}");
        let resumed = run(&config, &dense, &out(&name), true, None).unwrap().unwrap();
        let nats = |report: &Report| -> Vec<Vec<f64>> {
            report.rows.iter().map(|row| row.nats.clone()).collect()
        };
        assert_eq!(nats(&resumed), nats(&report));
        let (found, expected) = (files(&out(&name)), files(&out("whole")));
        assert!(found.keys().eq(expected.keys()));
        for (file, bytes) in found {
            assert!(bytes == expected[&file], "{file} after {stop:?}");
        }
    }
    let none = run(&config, &dense, &out("never"), true, None).unwrap_err().to_string();
    assert!(none.contains("no unfinished run to resume"), "{none}");
}

#[test]
fn the_report_has_every_step_and_training_brings_the_model_back() {
    let folder = tempfile::tempdir().unwrap();
    let dense = dense(folder.path());
    let out = folder.path().join("out");
    let config = short().with_reconstruct_steps(40).with_steps(Some(30)).with_lr(3e-3);
    let report = run(&config, &dense, &out, false, None).unwrap().unwrap();
    let steps: Vec<Option<Step>> = report.rows.iter().map(|row| row.step).collect();
    assert_eq!(steps, [None, Some(Step::Cut), Some(Step::Reconstruct), Some(Step::Distil)]);
    assert_eq!(report.texts, ["foxes", "dogs"]);
    let nats: Vec<f64> = report.rows.iter().map(|row| row.nats[0]).collect();
    assert!(nats[1] > nats[0] && nats[3] < nats[1], "{nats:?}");
    assert_eq!(report.rows[3].sparsity, 0.5);
    assert_eq!(report.rows[2].tokens, 40 * 16);
    assert_eq!(report.rows[3].tokens, 30 * 4 * 16);
    assert!(report.rows[3].bytes < report.rows[0].bytes);
    assert_eq!(report.kept.iter().sum::<f64>() / report.kept.len() as f64, 0.5);
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("<td>distil</td>") && page.contains("nats, held out of dogs"), "{page}");
    for name in ["report.json", "kept.svg", "loss.svg", "training.svg", "recover.json"] {
        assert!(out.join(name).exists(), "{name}");
    }
    // What was dense and is not trained is as it was.
    let mut recovered =
        ModelFolder::open(&out).unwrap().load(&Device::flex(), Precision::File).unwrap();
    let mut before = dense.load(&Device::flex(), Precision::File).unwrap();
    let others = |model: &mut Model| -> Vec<burn::tensor::TensorData> {
        let all = model.linears_mut().into_iter().filter(|(name, _)| !name.contains(".mlp."));
        all.map(|(_, linear)| linear.to_dense().into_data()).collect()
    };
    assert_eq!(others(&mut recovered), others(&mut before));
}

#[test]
fn hours_are_turned_into_steps_once() {
    let folder = tempfile::tempdir().unwrap();
    let dense = dense(folder.path());
    let steps_of = |hours: f64| {
        let out = folder.path().join(format!("out-{hours}"));
        let config = short().with_steps(None).with_hours(hours);
        assert!(run(&config, &dense, &out, false, None).unwrap().is_some());
        let log = std::fs::read_to_string(out.join("recover.json")).unwrap();
        serde_json::from_str::<Log>(&log).unwrap().steps
    };
    // Nothing is left for distillation: one step is done all the same.
    assert_eq!(steps_of(1e-9), 1);
    assert!(steps_of(1e-3) > 1);
    let refused = run(&short().with_hours(0.0), &dense, &folder.path().join("no"), false, None);
    assert!(refused.unwrap_err().to_string().contains("hours is 0"));
}
