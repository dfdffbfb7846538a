//! Host kernels against the f64 oracle: every block size, shape, pattern kind, row count and data type.

mod causal;
#[path = "../common/mod.rs"]
mod common;

use std::mem::MaybeUninit;

use burn_blast_kernels::cpu::{self, HostFloat, Values};
use burn_blast_kernels::reference::{self, Rounding};
use burn_blast_kernels::{BlockMask, BlockPattern, BlockSize, MatrixShape};
use common::{numbers, random, values};
use half::{bf16, f16};

/// Numbers of rows: one, two, and around the widths of vectors and tiles.
const ROWS: [usize; 8] = [1, 2, 15, 16, 17, 33, 64, 131];

/// Patterns of one block size: whole and ragged sizes; none, one, some and all blocks; empty rows and columns.
fn patterns(block: usize) -> Vec<(String, BlockPattern)> {
    let size = BlockSize::new(block).unwrap();
    let sides = [
        (2 * block, 3 * block),
        (3 * block - 3, 2 * block + 5),
        (block / 2 + 1, block + 1),
        (1, 1),
    ];
    let mut cases = Vec::new();
    for (rows, cols) in sides {
        let shape = MatrixShape::new(rows, cols).unwrap();
        let mut one = BlockMask::empty(shape, size);
        one.set(0, shape.block_cols(size) - 1, true);
        let kinds = [
            ("nnz 0", BlockPattern::random(shape, size, 0.0, 1)),
            ("one block", BlockPattern::from_mask(&one)),
            ("half", BlockPattern::random(shape, size, 0.5, 2)),
            ("band", BlockPattern::banded(shape, size, 0)),
            ("full", BlockPattern::dense(shape, size)),
        ];
        for (kind, pattern) in kinds {
            cases.push((format!("block {block}, {rows} x {cols}, {kind}"), pattern));
        }
    }
    cases
}

fn round<T: HostFloat>(numbers: Vec<f32>) -> (Vec<T>, Vec<f32>) {
    let stored = T::narrow(numbers);
    let exact = T::widen(&stored).into_owned();
    (stored, exact)
}

fn check_all<T: HostFloat>(block: usize, rounding: Rounding) {
    for (name, pattern) in patterns(block) {
        for m in ROWS {
            check(&format!("{name}, {m} rows"), &pattern, m, rounding, round::<T>);
        }
    }
}

fn check<T: HostFloat>(
    case: &str,
    pattern: &BlockPattern,
    m: usize,
    rounding: Rounding,
    round: impl Fn(Vec<f32>) -> (Vec<T>, Vec<f32>),
) {
    let shape = pattern.shape();
    let (x, x_exact) = round(numbers(m * shape.rows(), 3));
    let (dy, dy_exact) = round(numbers(m * shape.cols(), 4));
    let (w, w_exact) = round(values(pattern, 5));
    let (bias, bias_exact) = round(numbers(shape.cols(), 6));
    let expect = |verb: &str, got: Vec<T>, want: Vec<reference::Exact>| {
        if let Err(message) = rounding.check(&T::widen(&got), &want) {
            panic!("{verb}, {case}: {message}");
        }
    };
    let biased = ("spmm + bias", Some(&bias[..]), Some(&bias_exact[..]));
    for (verb, bias, bias_exact) in [("spmm", None, None), biased] {
        let want = reference::spmm(&x_exact, &w_exact, bias_exact, pattern);
        expect(verb, cpu::spmm(&x, &w, bias, pattern, m), want);
    }
    expect(
        "spmm_t",
        cpu::spmm_t(&dy, &w, pattern, m),
        reference::spmm_t(&dy_exact, &w_exact, pattern),
    );
    expect(
        "sddmm",
        cpu::sddmm(&x, &dy, pattern, m),
        reference::sddmm(&x_exact, &dy_exact, pattern),
    );
    expect("block_norms", cpu::block_norms(&w, pattern), reference::block_norms(&w_exact, pattern));
    expect(
        "grad_block_norms",
        cpu::grad_block_norms(&x, &dy, pattern, m),
        reference::grad_block_norms(&x_exact, &dy_exact, pattern),
    );
}

macro_rules! grid {
    ($($name:ident: $block:literal, $float:ty, $rounding:ident;)*) => {$(
        #[test]
        fn $name() {
            check_all::<$float>($block, Rounding::$rounding);
        }
    )*};
}

grid! {
    every_verb_is_right_at_block_8: 8, f32, F32;
    every_verb_is_right_at_block_16: 16, f32, F32;
    every_verb_is_right_at_block_32: 32, f32, F32;
    every_verb_is_right_at_block_64: 64, f32, F32;
    every_verb_is_right_at_block_128: 128, f32, F32;
    every_verb_is_right_in_f16: 16, f16, F16;
    every_verb_is_right_in_bf16: 32, bf16, BF16;
}

fn large() -> BlockPattern {
    random([512, 1024, 32], 0.2, 7)
}

#[test]
fn a_large_product_is_right_on_many_threads() {
    check::<f32>("large", &large(), 200, Rounding::F32, round::<f32>);
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let pattern = large();
    let (x, w) = (numbers(200 * 512, 1), values(&pattern, 2));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| cpu::spmm(&x, &w, None, &pattern, 200))
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn a_nan_input_reaches_every_output_it_feeds_and_no_other() {
    let pattern =
        BlockPattern::banded(MatrixShape::new(32, 32).unwrap(), BlockSize::new(16).unwrap(), 0);
    let mut x = vec![1.0; 32];
    x[0] = f32::NAN;
    let y = cpu::spmm(&x, &vec![1.0; pattern.value_count()], None, &pattern, 1);
    assert!(y[..16].iter().all(|y| y.is_nan()) && y[16..].iter().all(|y| y.is_finite()));
}

#[test]
fn the_oracle_refuses_a_dropped_block() {
    // The bound must be tight enough to detect one missing block.
    let pattern = large();
    let (x, w) = (numbers(512, 1), values(&pattern, 2));
    let mut dropped = w.clone();
    dropped[..pattern.block().area()].fill(0.0);
    let want = reference::spmm(&x, &w, None, &pattern);
    let got = cpu::spmm(&x, &dropped, None, &pattern, 1);
    assert!(Rounding::F32.check(&got, &want).is_err());
}

/// Values of other types than the input, with and without a bias. The output starts as NaN.
#[test]
fn weights_of_every_type_multiply_f32() {
    for block in [8, 16, 32, 64, 128] {
        for (name, pattern) in patterns(block) {
            for m in [1, 5, 33, 131] {
                mixed(&format!("{name}, {m} rows"), &pattern, m);
            }
        }
    }
}

fn mixed(case: &str, pattern: &BlockPattern, m: usize) {
    let shape = pattern.shape();
    let x = numbers(m * shape.rows(), 3);
    let bias = numbers(shape.cols(), 6);
    let (half, half_exact) = round::<f16>(values(pattern, 5));
    let (brain, brain_exact) = round::<bf16>(values(pattern, 5));
    let whole: Vec<i8> = values(pattern, 5).iter().map(|v| (v * 127.0) as i8).collect();
    let scales: Vec<f32> = (0..pattern.nnz()).map(|at| 0.01 + 0.001 * at as f32).collect();
    let area = pattern.block().area();
    let whole_exact: Vec<f32> =
        whole.iter().enumerate().map(|(at, &v)| f32::from(v) * scales[at / area]).collect();
    let nibbles = cpu::quantize_int4(&values(pattern, 5), pattern);
    let nibbles_exact = cpu::dequantize_int4(&nibbles, pattern);
    let nibbles = Values::Int4 { bytes: &nibbles, block: pattern.block() };
    let kinds = [
        ("int4", nibbles, nibbles_exact),
        ("f16", Values::F16(&half), half_exact),
        ("bf16", Values::Bf16(&brain), brain_exact),
        ("int8", Values::Int8 { values: &whole, scales: &scales }, whole_exact),
    ];
    for (kind, stored, exact) in kinds {
        for bias in [None, Some(&bias[..])] {
            let mut out = vec![MaybeUninit::new(f32::NAN); m * shape.cols()];
            cpu::spmm_into(&x, stored, bias, pattern, &mut out);
            // SAFETY: it was initialised with NaN.
            let got: Vec<f32> = out.into_iter().map(|y| unsafe { y.assume_init() }).collect();
            let want = reference::spmm(&x, &exact, bias, pattern);
            // A single row is rounded to 16 bits.
            let rounding = match kind {
                "int4" if m == 1 => Rounding { input: 1e-4, ..Rounding::F32 },
                _ => Rounding::F32,
            };
            if let Err(message) = rounding.check(&got, &want) {
                panic!("{kind}, {case}: {message}");
            }
        }
    }
}

/// Large enough for non-temporal stores, at the start of a cache line and beside it.
#[test]
fn a_large_output_is_right_wherever_it_starts() {
    let pattern = random([64, 4096, 32], 0.4, 8);
    let (m, w) = (300, values(&pattern, 5));
    let (x, bias) = (numbers(m * 64, 1), numbers(4096, 2));
    let want = reference::spmm(&x, &w, Some(&bias), &pattern);
    for offset in 0..17 {
        let mut out = vec![MaybeUninit::new(f32::NAN); m * 4096 + 32];
        let to = &mut out[offset..offset + m * 4096];
        cpu::spmm_into(&x, Values::F32(&w), Some(&bias), &pattern, to);
        // SAFETY: it was initialised with NaN.
        let got: Vec<f32> = out.into_iter().map(|y| unsafe { y.assume_init() }).collect();
        Rounding::F32.check(&got[offset..offset + m * 4096], &want).unwrap();
        assert!(got[..offset].iter().chain(&got[offset + m * 4096..]).all(|y| y.is_nan()));
    }
}

#[test]
fn a_column_of_several_groups_of_blocks_is_one_sum() {
    for block in [16, 64, 128] {
        let shape = MatrixShape::new(300 * block / 16 + 5, 2 * block).unwrap();
        let pattern = BlockPattern::dense(shape, BlockSize::new(block).unwrap());
        for m in [1, 30] {
            check::<f32>("long columns", &pattern, m, Rounding::F32, round::<f32>);
        }
        check::<bf16>("long columns", &pattern, 30, Rounding::BF16, round::<bf16>);
    }
}
