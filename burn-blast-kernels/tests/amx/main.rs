//! Products of pairs of bf16 in the matrix unit AMX: natively where the machine has it, otherwise with the same machine code
//! in an emulator of its instructions.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[path = "../common/mod.rs"]
mod common;
mod emulator;
#[path = "../pairs/mod.rs"]
mod pairs;

use std::sync::LazyLock;

use burn_blast_kernels::cpu::{self, Values, allow_bf16, allow_int8};
use burn_blast_kernels::reference::{self, Rounding};
use common::{numbers, random, values};

/// Every test of this program has the switch on. Returns whether the instructions are executed.
fn allowed() -> bool {
    static EXECUTED: LazyLock<bool> = LazyLock::new(|| {
        if cpu::has_matrix_unit() {
            println!("AMX: by the machine");
            return true;
        }
        let installed = emulator::install();
        println!("AMX: {}", if installed { "emulated" } else { "skipped: no AVX512-BF16" });
        installed
    });
    allow_bf16(true);
    *EXECUTED
}

/// Instructions of the unit that `work` executes on this thread, or 1 where the machine itself executes them.
fn executed(work: impl FnOnce()) -> u64 {
    let before = emulator::executed_here();
    work();
    if emulator::is_installed() { emulator::executed_here() - before } else { 1 }
}

/// No test passes by another path.
#[test]
fn every_verb_runs_in_the_unit_and_small_blocks_do_not() {
    if !allowed() {
        return;
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build().unwrap();
    for (block, expected) in [(32, true), (16, false)] {
        let pattern = random([96, 64, block], 1.0, 1);
        let (x, dy, w) = (numbers(20 * 96, 1), numbers(20 * 64, 2), values(&pattern, 3));
        let verbs: [(&str, &(dyn Fn() + Sync)); 3] = [
            ("spmm", &|| drop(cpu::spmm(&x, &w, None, &pattern, 20))),
            ("spmm_t", &|| drop(cpu::spmm_t(&dy, &w, &pattern, 20))),
            ("sddmm", &|| drop(cpu::sddmm(&x, &dy, &pattern, 20))),
        ];
        for (name, verb) in verbs {
            let count = executed(|| pool.install(verb));
            let as_expected = (count > 0) == expected || !emulator::is_installed();
            assert!(as_expected, "{name}, block {block}: {count} instructions");
        }
    }
}

/// The unit multiplies int8 weights as bf16, and stays within the bound that is stated for integers.
#[test]
fn integers_are_multiplied_within_their_bound() {
    if !allowed() {
        return;
    }
    allow_int8(true);
    let (b, m) = (64, 40);
    let pattern = random([2 * b + 3, 3 * b, b], 0.6, 1);
    let shape = pattern.shape();
    let x = numbers(m * shape.rows(), 2);
    let integers: Vec<i8> = values(&pattern, 3).iter().map(|value| (value * 127.0) as i8).collect();
    let scales: Vec<f32> = (0..pattern.nnz()).map(|at| 0.01 + 0.001 * at as f32).collect();
    let weight = Values::Int8 { values: &integers, scales: &scales };
    let y = pairs::written(m * shape.cols(), |out| cpu::spmm_into(&x, weight, None, &pattern, out));
    let scaled = integers.chunks(b * b).zip(&scales);
    let exact: Vec<f32> = scaled
        .flat_map(|(block, scale)| block.iter().map(move |&i| f32::from(i) * scale))
        .collect();
    let rounded = |numbers: &[f32]| pairs::halves(numbers.to_vec()).1;
    let want = reference::spmm(&rounded(&x), &rounded(&exact), None, &pattern);
    pairs::expect("factors in bf16", Rounding::F32, &y, &want);
    let largest = |elements: &[f32]| elements.iter().fold(0.0_f32, |all, x| all.max(x.abs()));
    let mut errors = x.clone();
    for row in errors.chunks_mut(shape.rows()) {
        for elements in row.chunks_mut(b) {
            elements.fill(largest(elements) / 254.0);
        }
    }
    let magnitudes: Vec<f32> = exact.iter().map(|w| w.abs()).collect();
    let limits = reference::spmm(&errors, &magnitudes, None, &pattern);
    let unrounded = reference::spmm(&x, &exact, None, &pattern);
    for ((y, limit), want) in y.iter().zip(limits).zip(unrounded) {
        assert!((f64::from(*y) - want.value).abs() <= 1.0001 * limit.value + 1e-4);
    }
}
