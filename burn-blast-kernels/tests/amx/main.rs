//! AMX products against the f64 oracle: natively where the machine has AMX, otherwise with the same machine code in an
//! emulator of its instructions.
#![cfg(all(feature = "amx", target_arch = "x86_64", target_os = "linux"))]

#[path = "../common/mod.rs"]
mod common;
mod emulator;

use std::mem::MaybeUninit;
use std::sync::Once;

use burn_blast_kernels::cpu::{self, Values};
use burn_blast_kernels::reference::{self, Exact, Rounding};
use burn_blast_kernels::{BlockPattern, BlockSize, MatrixShape};
use common::{numbers, random, values};
use half::bf16;

/// Makes the AMX instructions available.
fn amx_or_emulator() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if cpu::has_matrix_unit() {
            println!("AMX: by the machine");
            return;
        }
        println!("AMX: emulated");
        emulator::install();
    });
}

/// Checks that `work` runs emulated instructions, so that no test passes by another path.
fn with_amx<T>(work: impl FnOnce() -> T) -> T {
    let before = emulator::executed();
    let result = work();
    assert!(cpu::has_matrix_unit() && (emulator::executed() > before || !emulator::is_installed()));
    result
}

fn patterns(block: usize) -> Vec<(&'static str, BlockPattern)> {
    let size = BlockSize::new(block).unwrap();
    let ragged = MatrixShape::new(3 * block - 3, 2 * block + 5).unwrap();
    let shape = MatrixShape::new(2 * block, 3 * block).unwrap();
    vec![
        ("one block", BlockPattern::new(shape, size, vec![0, 1, 1, 1], vec![1]).unwrap()),
        ("half", BlockPattern::random(shape, size, 0.5, 2)),
        ("ragged half", BlockPattern::random(ragged, size, 0.5, 3)),
        ("ragged full", BlockPattern::dense(ragged, size)),
        ("nnz 0", BlockPattern::random(ragged, size, 0.0, 4)),
    ]
}

fn rounded(numbers: Vec<f32>) -> (Vec<bf16>, Vec<f32>) {
    let stored: Vec<bf16> = numbers.into_iter().map(bf16::from_f32).collect();
    let exact = stored.iter().map(|x| x.to_f32()).collect();
    (stored, exact)
}

/// Runs `write` on an output that starts as NaN.
fn written(len: usize, write: impl FnOnce(&mut [MaybeUninit<bf16>])) -> Vec<f32> {
    let mut out = vec![MaybeUninit::new(bf16::NAN); len];
    with_amx(|| write(&mut out));
    // SAFETY: it was initialised with NaN.
    out.into_iter().map(|y| unsafe { y.assume_init() }.to_f32()).collect()
}

fn expect(case: &str, got: &[f32], want: &[Exact]) {
    if let Err(message) = Rounding::BF16.check(got, want) {
        panic!("{case}: {message}");
    }
}

#[test]
fn products_are_right_with_and_without_a_bias() {
    amx_or_emulator();
    for block in [32, 64, 128] {
        for (name, pattern) in patterns(block) {
            for m in [16, 17, 31, 33, 64] {
                check(&format!("block {block}, {name}, {m} rows"), &pattern, m);
            }
        }
    }
}

fn check(case: &str, pattern: &BlockPattern, m: usize) {
    let shape = pattern.shape();
    let (x, x_exact) = rounded(numbers(m * shape.rows(), 1));
    let (dy, dy_exact) = rounded(numbers(m * shape.cols(), 2));
    let (w, w_exact) = rounded(values(pattern, 3));
    let (bias, bias_exact) = rounded(numbers(shape.cols(), 4));
    for (bias, bias_exact) in [(None, None), (Some(&bias[..]), Some(&bias_exact[..]))] {
        let y = written(m * shape.cols(), |out| {
            cpu::spmm_into(&x, Values::Bf16(&w), bias, pattern, out);
        });
        let want = reference::spmm(&x_exact, &w_exact, bias_exact, pattern);
        expect(&format!("{case}, bias: {}", bias.is_some()), &y, &want);
    }
    let dx = written(m * shape.rows(), |out| {
        cpu::spmm_t_into(&dy, Values::Bf16(&w), pattern, out);
    });
    expect(&format!("{case}, transposed"), &dx, &reference::spmm_t(&dy_exact, &w_exact, pattern));
}

#[test]
fn more_rows_than_a_chunk_are_the_same_on_any_number_of_threads() {
    amx_or_emulator();
    let pattern = random([256, 192, 32], 0.5, 5);
    let m = 1050;
    let (x, x_exact) = rounded(numbers(m * 256, 1));
    let (w, w_exact) = rounded(values(&pattern, 2));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let product = || with_amx(|| cpu::spmm(&x, &w, None, &pattern, m));
        pool.install(product).iter().map(|y| y.to_f32()).collect::<Vec<_>>()
    };
    let one = run(1);
    expect("1050 rows", &one, &reference::spmm(&x_exact, &w_exact, None, &pattern));
    assert_eq!(one, run(3));
}

#[test]
fn a_nan_reaches_the_outputs_it_feeds_and_no_other() {
    amx_or_emulator();
    let size = BlockSize::new(32).unwrap();
    let pattern = BlockPattern::banded(MatrixShape::new(64, 64).unwrap(), size, 0);
    let mut x = vec![bf16::ONE; 16 * 64];
    x[0] = bf16::NAN;
    let w = vec![bf16::ONE; pattern.value_count()];
    let y = with_amx(|| cpu::spmm(&x, &w, None, &pattern, 16));
    assert!(y[..32].iter().all(|y| y.is_nan()));
    assert!(y[32..].iter().all(|y| y.to_f32() == 32.0));
}

#[test]
fn other_types_and_few_rows_take_the_other_path() {
    amx_or_emulator();
    let pattern = random([32, 32, 32], 1.0, 1);
    let w = vec![bf16::ONE; pattern.value_count()];
    let before = emulator::executed_here();
    cpu::spmm(&vec![bf16::ONE; 15 * 32], &w, None, &pattern, 15);
    let mut out = vec![MaybeUninit::uninit(); 16 * 32];
    let x = vec![1.0_f32; 16 * 32];
    cpu::spmm_into(&x, Values::Bf16(&w), None, &pattern, &mut out);
    assert_eq!(emulator::executed_here(), before);
}
