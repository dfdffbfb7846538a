//! Products of pairs of bf16 in the matrix unit AMX: natively where the machine has it, otherwise with the same machine code
//! in an emulator of its instructions.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[path = "../common/mod.rs"]
mod common;
mod emulator;
#[path = "../pairs/mod.rs"]
mod pairs;

use std::sync::LazyLock;

use burn_blast_kernels::cpu::{self, allow_bf16};
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
