//! Tiny problems of every kind, checked and timed for real on Flex.

use std::time::Instant;

use burn::tensor::{Device, Tensor};
use clap::{Parser, ValueEnum};

use crate::cli::{Cli, Command, RunArgs};
use crate::element::Element;
use crate::format::id;
use crate::record::{Clock, Measured, Problem, Verb};
use crate::run::Bench;
use crate::setup::{Input, Weight, case};
use crate::timing::Timer;

fn problem(verb: Verb, dtype: Element) -> Problem {
    Problem {
        model: "tiny".to_owned(),
        verb,
        rows: 5,
        // The last block of each axis is ragged.
        d_input: 56,
        d_output: 40,
        block: 16,
        sparsity: 0.5,
        dtype,
        cold: false,
    }
}

fn bench(words: &[&str], memory: f64) -> Bench {
    let args = args(words);
    let device = Device::flex();
    let timer = Timer::new(device.clone(), Some(Clock::Wall)).unwrap();
    Bench::new(&args, device, timer, &[], memory, Instant::now())
}

fn args(words: &[&str]) -> RunArgs {
    let words = ["blast-bench", "run"].iter().chain(words);
    match Cli::try_parse_from(words).unwrap().command {
        Command::Run(args) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_verb_is_right_and_timed_in_every_type() {
    let problems: Vec<Problem> = Verb::value_variants()
        .iter()
        .flat_map(|&verb| Element::value_variants().iter().map(move |&dtype| problem(verb, dtype)))
        .filter(|problem| problem.dtype.is_timed(problem.verb))
        .collect();
    let mut results = Vec::new();
    let mut timed = |result: &Measured| {
        results.push(result.problem.clone());
        Ok(())
    };
    let outcome = bench(&["--rounds", "2"], 1e9).all(&problems, &mut timed).unwrap();
    assert_eq!(results, problems);
    assert!(outcome.skipped.is_empty());
    assert_eq!(outcome.results.len(), problems.len());
    for result in outcome.results {
        let name = id(&result.problem);
        assert_eq!(result.rounds, 2, "{name}");
        assert!(result.sparse.median > 0.0 && result.speedup.median > 0.0, "{name}");
        assert!((0.0..=1.0).contains(&result.error), "{name}");
        assert!(result.kept_flops < result.dense_flops, "{name}");
        let chooses = !matches!(result.problem.verb, Verb::InputGradient | Verb::WeightGradient);
        assert_eq!(
            (result.auto.is_some(), result.auto_path.is_some()),
            (chooses, chooses),
            "{name}"
        );
    }
}

#[test]
fn weights_of_no_blocks_and_of_all_blocks_are_right() {
    for &verb in Verb::value_variants() {
        for sparsity in [0.0, 1.0] {
            let problem = Problem { sparsity, ..problem(verb, Element::F32) };
            let case = case(&problem, &Device::flex()).unwrap();
            assert!((case.check)().unwrap() <= 1.0, "{}", id(&problem));
        }
    }
}

/// With another weight the ratio would mean nothing.
#[test]
fn the_dense_call_computes_the_same_function() {
    for verb in [Verb::Forward, Verb::InputGradient, Verb::GatedMlp, Verb::Step] {
        let mut case = case(&problem(verb, Element::F32), &Device::flex()).unwrap();
        let result = |output: crate::setup::AnyOutput| -> Tensor<2> {
            match output.downcast::<Tensor<2>>() {
                Ok(result) => *result,
                Err(output) => output.downcast::<Option<Tensor<2>>>().unwrap().unwrap(),
            }
        };
        let (sparse, dense) = (result((case.sparse)()), result((case.dense)()));
        assert!(sparse.all_close(dense, Some(1e-4), Some(1e-5)), "{verb:?}");
    }
}

#[test]
fn the_oracle_reads_the_weight_on_the_device() {
    let device = Device::flex();
    let problem = problem(Verb::Forward, Element::Bf16);
    let weight = Weight::of(&problem).unwrap();
    let dense: Vec<f32> = weight.dense(&device).into_data().iter::<f32>().collect();
    let mut expected = vec![0.0; dense.len()];
    for n in 0..problem.d_output {
        weight.column(n).for_each(|(k, w)| expected[k * problem.d_output + n] = w as f32);
    }
    assert_eq!(dense, expected);
    for k in 0..problem.d_input {
        weight.row(k).for_each(|(n, w)| expected[k * problem.d_output + n] -= w as f32);
    }
    assert!(expected.iter().all(|&left| left == 0.0));
    let input = Input::new([2, 3], 2, &problem);
    let x: Vec<f64> = input.tensor(&device).into_data().iter::<f64>().collect();
    assert_eq!(x[4], input.at(1, 1));
}

#[test]
fn skipped_problems_are_counted_by_reason() {
    let problems =
        [problem(Verb::Forward, Element::F32), problem(Verb::InputGradient, Element::F32)];
    let small = bench(&["--rounds", "1"], 1e3).all(&problems, &mut |_| Ok(())).unwrap();
    let reasons: Vec<(&String, &usize)> = small.skipped.iter().collect();
    assert!(reasons[0].0.contains("--memory") && *reasons[0].1 == 2, "{reasons:?}");
    let late = bench(&["--rounds", "1", "--time-limit", "0"], 1e9)
        .all(&problems, &mut |_| Ok(()))
        .unwrap();
    assert!(late.skipped.keys().all(|reason| reason.contains("time limit")));
    assert!(late.results.is_empty());
}

#[test]
fn an_error_names_the_problem() {
    let error = bench(&[], 1e9)
        .all(&[Problem { block: 7, ..problem(Verb::Forward, Element::F32) }], &mut |_| Ok(()));
    let error = format!("{:#}", error.err().expect("7 is not a block size"));
    assert!(error.contains("tiny, 56 × 40, forward, M 5, block 7"), "{error}");
}

#[test]
fn an_existing_file_stops_a_run_before_it_starts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    std::fs::write(&path, "precious").unwrap();
    let error = crate::run::run(&args(&["--quick", "--out", path.to_str().unwrap()])).unwrap_err();
    assert!(error.to_string().contains("--force"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}
