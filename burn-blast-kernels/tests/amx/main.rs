//! Products of pairs of bf16 in the matrix unit AMX: natively where the machine has it, otherwise with the same machine code
//! in an emulator of its instructions.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[path = "../common/mod.rs"]
mod common;
mod emulator;
#[path = "../pairs/mod.rs"]
mod pairs;

use std::sync::LazyLock;

use burn_blast_kernels::BlockPattern;
use burn_blast_kernels::cpu::{self, HostFloat, Values, allow_bf16, allow_int8};
use burn_blast_kernels::reference::{self, Rounding};
use common::{numbers, random, values};
use half::f16;

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

/// No test passes by another path: each call uses the unit, as it counts, or not. The emulator counts instructions besides.
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
            let before = [cpu::amx_uses_here(), emulator::executed_here()];
            pool.install(verb);
            let used = cpu::amx_uses_here() > before[0];
            let emulated = emulator::executed_here() > before[1];
            assert_eq!(used, expected, "{name}, block {block}");
            assert_eq!(emulated, used && emulator::is_installed(), "{name}, block {block}");
        }
    }
}

/// The unit multiplies int8 weights as bf16, and stays within the bound that is stated for it.
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
    check_bound(&y, [&x, &exact], &pattern);
    // The largest error of each factor, all in one direction.
    let pattern = BlockPattern::dense(shape, pattern.block());
    let (integers, scales) = (vec![125; pattern.value_count()], vec![0.257; pattern.nnz()]);
    let (weight, x) =
        (Values::Int8 { values: &integers, scales: &scales }, vec![1.0 + 2_f32.powi(-8); x.len()]);
    let y = pairs::written(m * shape.cols(), |out| cpu::spmm_into(&x, weight, None, &pattern, out));
    check_bound(&y, [&x, &vec![125.0 * 0.257; pattern.value_count()]], &pattern);
}

/// Nothing makes pairs of f16: it is rounded to integers there too.
#[test]
fn integers_times_f16_stay_integers() {
    allowed();
    allow_int8(true);
    let (b, m) = (32, 20);
    let pattern = random([2 * b, 3 * b, b], 0.6, 1);
    let x = f16::narrow(numbers(m * 2 * b, 2));
    let integers: Vec<i8> = values(&pattern, 3).iter().map(|value| (value * 127.0) as i8).collect();
    let weight = Values::Int8 { values: &integers, scales: &vec![0.01; pattern.nnz()] };
    let y = pairs::written::<f16>(m * 3 * b, |out| cpu::spmm_into(&x, weight, None, &pattern, out));
    let exact: Vec<f32> = integers.iter().map(|i| 0.01 * f32::from(*i)).collect();
    for (y, want) in y.iter().zip(reference::spmm(&f16::widen(&x), &exact, None, &pattern)) {
        assert!((f64::from(*y) - want.value).abs() < 0.1, "{y} for {}", want.value);
    }
}

fn check_bound(y: &[f32], [x, w]: [&[f32]; 2], pattern: &BlockPattern) {
    let magnitudes = |numbers: &[f32]| numbers.iter().map(|x| x.abs()).collect::<Vec<f32>>();
    let limits = reference::spmm(&magnitudes(x), &magnitudes(w), None, pattern);
    let unrounded = reference::spmm(x, w, None, pattern);
    for ((y, limit), want) in y.iter().zip(limits).zip(unrounded) {
        // What f32 rounds in the sums is a thousandth of it.
        let limit = 1.001 * limit.value / 127.0;
        assert!((f64::from(*y) - want.value).abs() <= limit, "{y} for {} ± {limit}", want.value);
    }
}
