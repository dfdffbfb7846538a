//! The page and the reading of records; parts of the page are tested in their own files.

use super::page;
use crate::fixtures::{machine, quartiles};
use crate::record::{Limit, Line, Machine, Measured, Peak, Quartiles, Run, VERSION, Verb};

/// A forward product for which `Auto` takes the sparse path.
fn measured(rows: usize, block: usize, sparsity: f64, speedup: f64) -> Measured {
    let result = crate::fixtures::measured_at(rows, block, sparsity, speedup);
    Measured { auto: Some(result.sparse), auto_path: Some("sparse".into()), ..result }
}

fn run(results: Vec<Measured>) -> Run {
    let peaks =
        vec![Peak { limit: Limit::DenseF32, rate: 1e11 }, Peak { limit: Limit::Read, rate: 2e10 }];
    Run { machine: machine(), peaks, results }
}

#[test]
fn a_file_that_cannot_be_read_is_refused_with_its_line_and_what_to_do() {
    let json = |line| serde_json::to_string(&line).unwrap();
    let head = json(Line::Machine(machine()));
    let result = json(Line::Result(measured(1, 32, 0.9, 4.0)));
    let (unknown, cut) = (result.replace("\"f32\"", "\"int4\""), &result[..result.len() / 2]);
    // Another version is named even if its fields differ.
    let newer = r#"{"kind":"machine","version":99,"commit":"feed123","host":"new field"}"#;
    let version = format!("version {VERSION}");
    let cases: [(String, &[&str]); 7] = [
        ("\n".into(), &["run.jsonl", "empty", "measure again"]),
        (result.clone(), &["run.jsonl:1", "first line", "measure again"]),
        (format!("{head}\n{head}\n"), &["run.jsonl:2", "second machine", "one run per file"]),
        (format!("{head}\n{unknown}"), &["run.jsonl:2", "int4"]),
        (format!("{head}\n\n{result}\n{cut}"), &["run.jsonl:4", "broken JSON", "remove this line"]),
        (
            format!("{head}\n{{\"kind\":\"peak\"}}"),
            &["run.jsonl:2", "not a line of a record", "limit"],
        ),
        (newer.into(), &["run.jsonl:1", "version 99", &version, "feed123"]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let refusal = || format!("{:#}", Run::read(&path).expect_err("the file was read"));
    let missing = refusal();
    assert!(missing.contains("run.jsonl") && missing.contains("blast-bench run"), "{missing}");
    for (text, words) in cases {
        std::fs::write(&path, text).unwrap();
        let message = refusal();
        for word in words {
            assert!(message.contains(word), "no \"{word}\" in: {message}");
        }
    }
}

#[test]
fn a_page_without_results_says_so() {
    for runs in [vec![], vec![run(Vec::new())]] {
        let page = page(&runs);
        assert!(page.contains("There are no results in these files"));
        assert!(!page.contains("<section"));
    }
}

#[test]
fn strings_of_a_file_are_escaped_everywhere() {
    let evil = "<b>&\"x\"";
    let mut results = vec![measured(1, 32, 0.5, 0.5), measured(1, 32, 0.9, 4.0)];
    for result in &mut results {
        result.problem.model = evil.into();
        result.auto_path = Some(evil.into());
    }
    let mut first = run(results);
    first.machine = Machine {
        driver: evil.into(),
        backend: evil.into(),
        simd: vec![evil.into()],
        commit: evil.into(),
        features: vec![evil.into()],
        date: evil.into(),
        command: evil.into(),
        device: evil.into(),
        ..machine()
    };
    let page = page(&[first.clone(), first]);
    assert!(!page.contains("<b>") && !page.contains("&\"x"));
    assert!(page.contains("&lt;b&gt;&amp;&quot;x&quot;"));
}

#[test]
fn there_is_one_speed_up_plot_per_group() {
    let mut results = Vec::new();
    for (block, rows) in [(16, 1), (16, 128), (32, 1), (32, 128), (64, 1)] {
        results.extend([0.5, 0.9].map(|sparsity| measured(rows, block, sparsity, 2.0)));
    }
    let (mut cold, mut step) = (measured(1, 16, 0.9, 2.0), measured(1, 16, 0.9, 2.0));
    (cold.problem.cold, step.problem.verb) = (true, Verb::Step);
    results.extend([cold, step]);
    let plots = |page: &str, kind: &str| page.matches(&format!("data-plot=\"{kind}\"")).count();
    let page_of_one = page(&[run(results.clone())]);
    assert_eq!(plots(&page_of_one, "speed-up"), 5);
    assert_eq!(plots(&page_of_one, "roofline"), 1);
    let page_of_two = page(&[run(results.clone()), run(results)]);
    assert_eq!(plots(&page_of_two, "speed-up"), 10);
    let devices = |page: &str| page.contains("<section id=\"devices\">");
    assert_eq!([devices(&page_of_one), devices(&page_of_two)], [false, true]);
}

/// The text between a heading that begins with `from` and the next one.
fn part<'a>(page: &'a str, from: &str) -> &'a str {
    let start =
        page.find(&format!("<h3>{from}")).unwrap_or_else(|| panic!("no heading \"{from}\""));
    let rest = &page[start + 4..];
    &rest[..rest.find("<h").unwrap_or(rest.len())]
}

#[test]
fn what_loses_is_listed_and_what_wins_is_not() {
    let mut slow_auto = measured(7, 32, 0.9, 4.0);
    slow_auto.auto = Some(quartiles(1.04 * 0.02));
    let mut near = measured(9, 32, 0.9, 4.0);
    near.auto = Some(quartiles(1.02 * 0.02));
    let page = page(&[run(vec![measured(3, 32, 0.5, 0.8), slow_auto, near])]);
    let (auto, sparse) =
        (part(&page, "Auto is more than"), part(&page, "The sparse path is slower"));
    assert!(
        auto.contains("2 of 3")
            && auto.contains("M 7,")
            && auto.contains("M 3,")
            && !auto.contains("M 9,")
    );
    assert!(part(&page, "Unusable results").contains(": 0 of 3"));
    assert!(sparse.contains("1 of 3") && sparse.contains("M 3,") && !sparse.contains("M 7,"));
}

#[test]
fn numbers_that_are_none_reach_no_plot() {
    let mut results =
        vec![measured(1, 32, 0.5, 0.8), measured(1, 32, 0.9, 4.0), measured(1, 32, 1.0, 9.0)];
    for value in [f64::NAN, 0.0, f64::INFINITY, -1.0] {
        for verb in [Verb::Forward, Verb::Step] {
            let mut broken = measured(1, 32, 0.75, 2.0);
            broken.problem.verb = verb;
            (broken.sparse, broken.speedup, broken.auto) =
                (quartiles(value), quartiles(value), Some(quartiles(value)));
            (broken.kept_flops, broken.weight_bytes, broken.error) = (value, value, value);
            results.push(broken.clone());
            broken.problem.sparsity = value;
            broken.sparse = quartiles(0.08);
            broken.speedup = Quartiles { low: value, median: 1.0, high: value };
            results.push(broken);
        }
    }
    let mut all = run(results);
    all.peaks[0].rate = f64::NAN;
    let page = page(&[all.clone(), all]);
    let attributes = page.split('<').filter_map(|tag| tag.split('>').next());
    for tag in
        attributes.filter(|tag| ["poly", "circle", "text"].iter().any(|name| tag.starts_with(name)))
    {
        assert!(!tag.contains("NaN") && !tag.contains("inf"), "<{tag}>");
    }
    assert!(!page.contains("NaN"));
    assert!(part(&page, "Unusable results").contains("<td"));
}

#[test]
fn a_wide_window_is_filled() {
    let page = page(&[run(vec![measured(1, 32, 0.9, 4.0)])]);
    // Plots that are too few for a row share its width, and text has two columns.
    assert!(page.contains("grid-template-columns: repeat(auto-fit,"));
    assert!(page.contains("p.lead { max-width: none; columns: 2;"));
    assert!(page.contains("<p class=\"lead\">"));
}

/// The record of a page in a browser, whose own test compares what it writes with this file.
#[test]
fn a_record_of_a_browser_is_reported_and_tuned_from() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("record/2026-12-01-browser/page.jsonl");
    let run = crate::record::Run::read(&path).unwrap();
    assert_eq!((run.machine.backend.as_str(), run.results.len()), ("webgpu", 40));
    assert!(run.results.iter().all(|result| result.error <= 1.0));
    let tables = serde_json::to_string(&crate::tuning::tables(std::slice::from_ref(&run))).unwrap();
    assert!(tables.contains("google swiftshader"), "{tables}");
    let page = page(&[run]);
    assert!(page.contains("google swiftshader, webgpu + dense-by-blocks"));
    assert!(part(&page, "Unusable results").contains(": 0 of 40"));
}
