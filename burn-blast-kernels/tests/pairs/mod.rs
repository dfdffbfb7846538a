//! Products of pairs of bf16 against the f64 oracle, by the unit that the program of this module chooses. Factors that are
//! bf16 already are rounded no further, so that products in f32 must then be as exact as without the switch.

mod feed_forward;

use std::mem::MaybeUninit;

use burn_blast_kernels::cpu::{self, HostFloat, Values};
use burn_blast_kernels::reference::{self, Exact, Rounding};
use burn_blast_kernels::{BlockMask, BlockPattern, BlockSize, MatrixShape};
use half::{bf16, f16};

use super::allowed;
use super::common::{numbers, random, values};

/// Numbers of rows: one, two, and around the widths of pairs, vectors, tiles and passes.
const ROWS: [usize; 11] = [0, 1, 2, 3, 15, 16, 17, 33, 64, 131, 300];

/// Numbers that are bf16.
pub fn halves(numbers: Vec<f32>) -> (Vec<bf16>, Vec<f32>) {
    let stored = bf16::narrow(numbers);
    let exact = bf16::widen(&stored).into_owned();
    (stored, exact)
}

/// Whole and odd sizes; none, one, some and all blocks; empty rows and columns.
pub fn patterns(block: usize) -> Vec<(String, BlockPattern)> {
    let size = BlockSize::new(block).unwrap();
    let sides = [
        (2 * block, 3 * block),
        (3 * block - 3, 2 * block + 5),
        (2 * block - 2, 2 * block - 7),
        (1, 1),
    ];
    let mut cases = Vec::new();
    for (rows, cols) in sides {
        let shape = MatrixShape::new(rows, cols).unwrap();
        let mut one = BlockMask::empty(shape, size);
        one.set(shape.block_rows(size) - 1, shape.block_cols(size) - 1, true);
        let kinds = [
            ("nnz 0", BlockPattern::random(shape, size, 0.0, 1)),
            ("one block", BlockPattern::from_mask(&one)),
            ("half", BlockPattern::random(shape, size, 0.5, 2)),
            ("full", BlockPattern::dense(shape, size)),
        ];
        for (kind, pattern) in kinds {
            cases.push((format!("block {block}, {rows} x {cols}, {kind}"), pattern));
        }
    }
    cases
}

/// Runs `write` on an output that starts as NaN.
pub fn written<T: HostFloat>(len: usize, write: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<f32> {
    let mut out = vec![MaybeUninit::new(T::narrow(vec![f32::NAN])[0]); len];
    write(&mut out);
    // SAFETY: it was initialised with NaN.
    let out: Vec<T> = out.into_iter().map(|y| unsafe { y.assume_init() }).collect();
    T::widen(&out).into_owned()
}

pub fn expect(case: &str, rounding: Rounding, got: &[f32], want: &[Exact]) {
    if let Err(message) = rounding.check(got, want) {
        panic!("{case}: {message}");
    }
}

/// A value outside a ragged weight must not be read: NaN there, in a copy of `w`.
fn poisoned(w: &[f32], pattern: &BlockPattern) -> Vec<f32> {
    let (b, shape) = (pattern.block().get(), pattern.shape());
    let mut w = w.to_vec();
    for (block, (row, col)) in w.chunks_exact_mut(b * b).zip(pattern.blocks()) {
        for (at, value) in block.iter_mut().enumerate() {
            if row * b + at / b >= shape.rows() || col * b + at % b >= shape.cols() {
                *value = f32::NAN;
            }
        }
    }
    w
}

#[test]
fn every_verb_is_right_in_f32_and_in_bf16() {
    allowed();
    for block in [8, 16, 32, 64, 128] {
        for (name, pattern) in patterns(block) {
            for m in ROWS {
                if block < 64 || m < 131 {
                    check(&format!("{name}, {m} rows"), &pattern, m);
                }
            }
        }
    }
}

fn check(case: &str, pattern: &BlockPattern, m: usize) {
    let shape = pattern.shape();
    let (x, x_exact) = halves(numbers(m * shape.rows(), 3));
    let (dy, dy_exact) = halves(numbers(m * shape.cols(), 4));
    let w_exact = halves(values(pattern, 5)).1;
    let (bias, bias_exact) = halves(numbers(shape.cols(), 6));
    let poisoned = poisoned(&w_exact, pattern);
    let w = bf16::narrow(poisoned.clone());
    let y = reference::spmm(&x_exact, &w_exact, Some(&bias_exact), pattern);
    let dx = reference::spmm_t(&dy_exact, &w_exact, pattern);
    let dw = reference::sddmm(&x_exact, &dy_exact, pattern);
    let norms = reference::grad_block_norms(&x_exact, &dy_exact, pattern);
    let (m_y, m_x) = (m * shape.cols(), m * shape.rows());
    let single = Values::F32(&poisoned);
    let f32_ = |verb: &str, got: Vec<f32>, want: &[Exact]| {
        expect(&format!("{verb} in f32, {case}"), Rounding::F32, &got, want);
    };
    f32_(
        "spmm",
        written(m_y, |out| cpu::spmm_into(&x_exact, single, Some(&bias_exact), pattern, out)),
        &y,
    );
    f32_(
        "spmm of bf16 weights",
        written(m_y, |out| {
            cpu::spmm_into(&x_exact, Values::Bf16(&w), Some(&bias_exact), pattern, out);
        }),
        &y,
    );
    f32_("spmm_t", written(m_x, |out| cpu::spmm_t_into(&dy_exact, single, pattern, out)), &dx);
    f32_("sddmm", cpu::sddmm(&x_exact, &dy_exact, pattern, m), &dw);
    f32_("norms", cpu::grad_block_norms(&x_exact, &dy_exact, pattern, m), &norms);
    let bf16_ = |verb: &str, got: Vec<f32>, want: &[Exact]| {
        expect(&format!("{verb} in bf16, {case}"), Rounding::BF16, &got, want);
    };
    bf16_(
        "spmm",
        written(m_y, |out| cpu::spmm_into(&x, Values::Bf16(&w), Some(&bias), pattern, out)),
        &y,
    );
    bf16_("spmm_t", written(m_x, |out| cpu::spmm_t_into(&dy, Values::Bf16(&w), pattern, out)), &dx);
    bf16_(
        "sddmm",
        written(pattern.value_count(), |out| cpu::sddmm_into(&x, &dy, pattern, m, out)),
        &dw,
    );
}

/// What is stored in fewer bits is widened, transposed and rounded.
#[test]
fn weights_of_every_type_multiply_pairs() {
    allowed();
    for (name, pattern) in patterns(32) {
        let shape = pattern.shape();
        let integers: Vec<i8> =
            (0..pattern.value_count()).map(|at| (at % 255) as u8 as i8).collect();
        let scales = vec![0.5; pattern.nnz()];
        let of_integers: Vec<f32> = integers.iter().map(|&value| 0.5 * f32::from(value)).collect();
        let half = f16::narrow(halves(values(&pattern, 5)).1);
        let of_half = f16::widen(&half).into_owned();
        let int8 = Values::Int8 { values: &integers, scales: &scales };
        for (weight, exact) in [(int8, of_integers), (Values::F16(&half), of_half)] {
            let (_, dy) = halves(numbers(40 * shape.cols(), 2));
            let dx = written(40 * shape.rows(), |out| cpu::spmm_t_into(&dy, weight, &pattern, out));
            let want = reference::spmm_t(&dy, &exact, &pattern);
            expect(&format!("{name}, transposed"), Rounding::F32, &dx, &want);
        }
        let (_, x) = halves(numbers(40 * shape.rows(), 3));
        let weight = Values::F16(&half);
        let y = written(40 * shape.cols(), |out| cpu::spmm_into(&x, weight, None, &pattern, out));
        let want = reference::spmm(&x, &f16::widen(&half), None, &pattern);
        expect(&format!("{name}, forward"), Rounding::F32, &y, &want);
    }
}

#[test]
fn factors_in_f32_are_rounded_to_bf16() {
    if !allowed() {
        return println!("skipped: nothing is rounded here");
    }
    let pattern = random([128, 128, 32], 0.5, 5);
    let (x, w) = (numbers(50 * 128, 1), values(&pattern, 2));
    let (dy, round) = (numbers(50 * 128, 3), |numbers: &[f32]| halves(numbers.to_vec()).1);
    let (y, dx) = (cpu::spmm(&x, &w, None, &pattern, 50), cpu::spmm_t(&dy, &w, &pattern, 50));
    let (x_16, w_16, dy_16) = (round(&x), round(&w), round(&dy));
    expect("y", Rounding::F32, &y, &reference::spmm(&x_16, &w_16, None, &pattern));
    assert!(Rounding::F32.check(&y, &reference::spmm(&x, &w, None, &pattern)).is_err());
    expect("dx", Rounding::F32, &dx, &reference::spmm_t(&dy_16, &w_16, &pattern));
    let dw = cpu::sddmm(&x, &dy, &pattern, 50);
    expect("dw", Rounding::F32, &dw, &reference::sddmm(&x_16, &dy_16, &pattern));
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    allowed();
    let pattern = random([512, 1024, 32], 0.2, 7);
    let (x, w) = (numbers(600 * 512, 1), values(&pattern, 2));
    let dy = numbers(600 * 1024, 3);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (y, dx) =
                (cpu::spmm(&x, &w, None, &pattern, 600), cpu::spmm_t(&dy, &w, &pattern, 600));
            (y, dx, cpu::sddmm(&x, &dy, &pattern, 600))
        })
    };
    assert!(run(1) == run(3));
}

#[test]
fn a_nan_reaches_the_outputs_it_feeds_and_no_other() {
    allowed();
    let pattern =
        BlockPattern::banded(MatrixShape::new(64, 64).unwrap(), BlockSize::new(32).unwrap(), 0);
    for m in [1, 16] {
        let mut x = vec![1.0; m * 64];
        x[0] = f32::NAN;
        let y = cpu::spmm(&x, &vec![1.0; pattern.value_count()], None, &pattern, m);
        assert!(y[..32].iter().all(|y| y.is_nan()) && y[32..].iter().all(|&y| y == 32.0));
    }
}

#[test]
fn a_dropped_block_or_row_is_noticed() {
    allowed();
    let pattern = random([512, 1024, 32], 0.2, 7);
    let (x, w) = (halves(numbers(33 * 512, 1)).1, halves(values(&pattern, 2)).1);
    let want = reference::spmm(&x, &w, None, &pattern);
    let mut dropped = w.clone();
    dropped[5 * 32..6 * 32].fill(0.0);
    let got = cpu::spmm(&x, &dropped, None, &pattern, 33);
    assert!(Rounding::F32.check(&got, &want).is_err());
}

/// Large outputs are written past the caches, with bias and in both types; columns of several groups of blocks, and sums over
/// several passes.
#[test]
fn large_outputs_and_long_columns_are_right() {
    allowed();
    for ([m, rows, cols, block], kept) in
        [([1100, 64, 2048, 32], 0.5), ([520, 544, 2048, 32], 1.0), ([515, 640, 2048, 128], 1.0)]
    {
        let pattern = random([rows, cols, block], kept, 1);
        let (x, x_exact) = halves(numbers(m * rows, 1));
        let (w, w_exact) = halves(values(&pattern, 2));
        let (bias, bias_exact) = halves(numbers(cols, 3));
        let want = reference::spmm(&x_exact, &w_exact, Some(&bias_exact), &pattern);
        let y = aligned(m * cols, |out: &mut [MaybeUninit<bf16>]| {
            cpu::spmm_into(&x, Values::Bf16(&w), Some(&bias), &pattern, out);
        });
        expect(&format!("bf16, {rows} x {cols}"), Rounding::BF16, &y, &want);
        let y = aligned(m * cols, |out: &mut [MaybeUninit<f32>]| {
            cpu::spmm_into(&x_exact, Values::F32(&w_exact), Some(&bias_exact), &pattern, out);
        });
        expect(&format!("f32, {rows} x {cols}"), Rounding::F32, &y, &want);
    }
    let pattern = random([128, 64, 64], 1.0, 1);
    let (x, dy) = (halves(numbers(600 * 128, 1)).1, halves(numbers(600 * 64, 2)).1);
    let want = reference::sddmm(&x, &dy, &pattern);
    expect("long sums", Rounding::F32, &cpu::sddmm(&x, &dy, &pattern, 600), &want);
}

/// Runs `write` on an output of NaN that starts at a cache line, which streaming needs.
fn aligned<T: HostFloat>(len: usize, write: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<f32> {
    let mut out = vec![MaybeUninit::new(T::narrow(vec![f32::NAN])[0]); len + 64];
    let start = out.as_ptr().align_offset(64);
    let out = &mut out[start..start + len];
    write(out);
    // SAFETY: it was initialised with NaN.
    let out: Vec<T> = out.iter().map(|y| unsafe { y.assume_init() }).collect();
    T::widen(&out).into_owned()
}
