//! Faults planted in generated code: the emulator must report each. Code without them must pass, which
//! `kernels.rs` shows.

use blast_offline::{BF16, Source};

use crate::common::{Problem, check_banks, emulator, source, variant};

/// Runs a forward kernel after `plant` has changed its code, and returns what was reported.
fn report(plant: impl Fn(&str) -> String) -> Option<String> {
    let emulator = emulator()?;
    let variant = variant("spmm_64x64");
    let healthy = source(&variant, BF16);
    let code = plant(&healthy.code);
    assert_ne!(code, healthy.code, "nothing was planted");
    let program = emulator.build(&Source { code, ..healthy }).unwrap();
    let blocks: Vec<(usize, usize)> = (0..6).map(|at| (at / 2, at % 2)).collect();
    let problem = Problem::new(BF16, [192, 128], 64, &blocks, 70);
    let result = problem.check_product(&variant, &program, None).and_then(check_banks);
    Some(result.expect_err("the fault went unnoticed"))
}

/// Replaces the `nth` occurrence, counted from 0.
fn replace_nth(code: &str, what: &str, nth: usize, with: &str) -> String {
    let at = code.match_indices(what).nth(nth).unwrap_or_else(|| panic!("no {what}")).0;
    format!("{}{with}{}", &code[..at], &code[at + what.len()..])
}

#[test]
fn a_write_beyond_shared_memory() {
    // The tile of `w` begins behind all of shared memory.
    let Some(report) = report(|code| {
        let tile = "reinterpret_cast<array<__nv_bfloat16_8, 1024> *>(&";
        let at = code.find(tile).expect("the tile of w") + tile.len();
        let shared = &code[at..at + code[at..].find('[').expect("the array")];
        code.replacen(&format!("{tile}{shared}["), &format!("{tile}{shared}[32768 + "), 1)
    }) else {
        return;
    };
    assert!(
        report.contains("cp.async at shared byte") && report.contains("out of bounds"),
        "{report}"
    );
}

#[test]
fn a_missing_barrier() {
    let Some(report) = report(|code| replace_nth(code, "__syncthreads();", 0, "")) else { return };
    assert!(report.contains("without a barrier between"), "{report}");
}

#[test]
fn a_missing_wait_for_copies() {
    let wait = "asm volatile(\"cp.async.wait_group 2;\" :  :  : \"memory\");";
    let Some(report) = report(|code| replace_nth(code, wait, 0, "")) else { return };
    assert!(report.contains("reads a copy that has not arrived"), "{report}");
}

#[test]
fn a_wait_that_leaves_one_group_too_many() {
    let Some(report) = report(|code| code.replace("wait_group 2", "wait_group 3")) else { return };
    assert!(report.contains("reads a copy that has not arrived"), "{report}");
}

#[test]
fn a_wrong_place_in_a_stage() {
    // The first fragment is taken from 16 bytes further on.
    let Some(report) = report(|code| {
        let at = code.find("ldmatrix.sync").expect("an ldmatrix");
        let operand = at + code[at..].find(": \"r\"(").expect("its address") + 6;
        format!("{}16 + {}", &code[..operand], &code[operand..])
    }) else {
        return;
    };
    // Either a wrong sum, or the padding between lines, which nobody writes.
    assert!(report.contains("element") || report.contains("never written"), "{report}");
}

#[test]
fn a_wrong_row_of_the_input() {
    // Rows of x are read one too late, as if the row tile began there.
    let Some(report) = report(|code| {
        let at = code.find("cp.async.cg").expect("a copy");
        let operand = at + code[at..].find("\"l\"(").expect("its source") + 4;
        format!("{}24 + {}", &code[..operand], &code[operand..])
    }) else {
        return;
    };
    assert!(report.contains("element") || report.contains("outside of every buffer"), "{report}");
}

#[test]
fn lines_that_meet_in_a_bank() {
    // Copies and fragments agree on the places, but vectors of a line are not permuted. The constants by which fragments follow
    // each other stay; unlike the permutations, they occur again.
    let Some(report) = report(|code| {
        let mut parts = code.split(" ^ ");
        let mut planted = parts.next().unwrap_or_default().to_string();
        for part in parts {
            let operand = part.split(';').next().unwrap_or_default();
            let constant = code.matches(&format!(" ^ {operand};")).count() > 1;
            planted += if constant { " ^ " } else { " + 0 * " };
            planted += part;
        }
        planted
    }) else {
        return;
    };
    assert!(report.contains("bank conflicts"), "{report}");
}
