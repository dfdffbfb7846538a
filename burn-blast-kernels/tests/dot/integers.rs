//! Products of 8-bit integers, against inputs that are quantised here, and against the bound that the documentation states.

use burn_blast_kernels::cpu::{self, Values, has_integer_dot_products};
use burn_blast_kernels::reference::{self, Rounding};
use burn_blast_kernels::{BlockPattern, BlockSize, MatrixShape};

use super::allowed;
use super::common::{numbers, values};
use super::pairs::{expect, halves, patterns, written};

/// `x [m, width]` as integers times a scale for each row and block column, and half of that scale for each element. A single
/// row as it is, without error.
fn quantized(x: &[f32], width: usize, b: usize) -> (Vec<f32>, Vec<f32>) {
    if x.len() == width {
        return (x.to_vec(), vec![0.0; width]);
    }
    let (mut rounded, mut errors) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    for (row, elements) in x.chunks(width).enumerate() {
        for (block, elements) in elements.chunks(b).enumerate() {
            let largest = elements.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            for (at, x) in elements.iter().enumerate() {
                let at = row * width + block * b + at;
                rounded[at] = (x * inverse).round_ties_even() * (largest / 127.0);
                errors[at] = largest / 254.0;
            }
        }
    }
    (rounded, errors)
}

#[test]
fn integers_multiply_rounded_inputs() {
    allowed();
    if !has_integer_dot_products() {
        return println!("skipped: this processor has no dot products of integers");
    }
    for block in [8, 16, 32, 64, 128] {
        for (name, pattern) in patterns(block) {
            for m in [1, 2, 3, 5, 15, 16, 17, 33, 131] {
                if block < 64 || m < 131 {
                    check_integers(&format!("{name}, {m} rows"), &pattern, m);
                }
            }
        }
    }
}

fn check_integers(case: &str, pattern: &BlockPattern, m: usize) {
    let (shape, block) = (pattern.shape(), pattern.block());
    let mut x = numbers(m * shape.rows(), 3);
    // A row of zeros has no scale, and a large element one that leaves little of its neighbours.
    if m > 1 {
        x[..shape.rows()].fill(0.0);
        x[m * shape.rows() - 1] = 100.0;
    }
    let bias = numbers(shape.cols(), 6);
    let scales: Vec<f32> = (0..pattern.nnz()).map(|at| 0.01 + 0.001 * at as f32).collect();
    let mut integers: Vec<i8> = values(pattern, 5).iter().map(|v| (v * 127.0) as i8).collect();
    // The extremes, which the sums of 16 bits of other instructions would not hold.
    for (at, value) in integers.iter_mut().enumerate().filter(|(at, _)| at % 7 < 2) {
        *value = if at % 7 == 0 { -128 } else { 127 };
    }
    let exact: Vec<f32> = integers
        .iter()
        .enumerate()
        .map(|(at, &value)| f32::from(value) * scales[at / block.area()])
        .collect();
    let weight = Values::Int8 { values: &integers, scales: &scales };
    let (rounded, errors) = quantized(&x, shape.rows(), block.get());
    let want = reference::spmm(&rounded, &exact, Some(&bias), pattern);
    let y = written(m * shape.cols(), |out| cpu::spmm_into(&x, weight, Some(&bias), pattern, out));
    expect(&format!("f32, {case}"), Rounding::F32, &y, &want);
    // The bound that the documentation states.
    let magnitudes: Vec<f32> = exact.iter().map(|w| w.abs()).collect();
    let limit = reference::spmm(&errors, &magnitudes, None, pattern);
    let unrounded = reference::spmm(&x, &exact, Some(&bias), pattern);
    for ((y, limit), want) in y.iter().zip(limit).zip(unrounded) {
        let (limit, want) = (limit.value, want.value);
        let sums = 1e-5 * (limit + want.abs()) + 1e-4;
        assert!((f64::from(*y) - want).abs() <= limit + sums, "{case}: {y} for {want} ± {limit}");
    }
    let (x_16, exact_16) = halves(x);
    let (rounded, _) = quantized(&exact_16, shape.rows(), block.get());
    let (bias_16, bias_exact) = halves(bias);
    let want = reference::spmm(&rounded, &exact, Some(&bias_exact), pattern);
    let y = written(m * shape.cols(), |out| {
        cpu::spmm_into(&x_16, weight, Some(&bias_16), pattern, out);
    });
    expect(&format!("bf16, {case}"), Rounding::BF16, &y, &want);
}

#[test]
fn integers_pass_on_what_is_not_a_number() {
    allowed();
    let pattern =
        BlockPattern::banded(MatrixShape::new(32, 32).unwrap(), BlockSize::new(16).unwrap(), 0);
    let ones = vec![1; pattern.value_count()];
    let weight = Values::Int8 { values: &ones, scales: &[1.0, 1.0] };
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = vec![1.0; 2 * 32];
        x[3] = bad;
        let y = written(2 * 32, |out| cpu::spmm_into(&x, weight, None, &pattern, out));
        assert!(y[..16].iter().all(|y| !y.is_finite()), "{bad}: {y:?}");
        assert!(y[16..].iter().all(|&y| (y - 16.0).abs() < 1e-4), "{bad}: {y:?}");
    }
}
