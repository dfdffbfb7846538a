//! The kernels for few rows.

use burn_blast_kernels::cube::{self, Context, Epilogue, KernelClass, Op, Unfused};
use burn_blast_kernels::{Activation, BlockPattern, reference};
use cubecl::prelude::*;

use crate::bench::{Bench, F16, F32, arg, kept};
use crate::common::{numbers, random, values};

fn spmm(bench: &Bench, pattern: &BlockPattern, m: usize) {
    let shape = pattern.shape();
    let x = bench.round(numbers(m * shape.rows(), 1));
    let (values, bias) = (bench.round(values(pattern, 2)), bench.round(numbers(shape.cols(), 3)));
    for bias in [None, Some(bias.as_slice())] {
        let want = reference::spmm(&x, &values, bias, pattern);
        let got = bench.run(pattern, want.len(), |ctx, y| {
            assert_eq!(ctx.plan(Op::PRODUCT, m).class(), KernelClass::Gemv);
            let bias = bias.map(|bias| bench.upload(bias));
            cube::spmm(ctx, bench.upload(&x), bench.upload(&values), Epilogue::bias(bias), y, m);
        });
        bench.check(&format!("spmm, {pattern:?}, m = {m}"), &got, &want);
    }
}

fn int8(bench: &Bench, pattern: &BlockPattern, m: usize) {
    let shape = pattern.shape();
    let x = bench.round(numbers(m * shape.rows(), 1));
    let (integers, scales, exact) = quantised(pattern);
    let want = reference::spmm(&x, &exact, None, pattern);
    let got = bench.run(pattern, want.len(), |ctx, y| {
        let bytes: Vec<u8> = integers.iter().map(|&value| value as u8).collect();
        let weight = [
            arg(&bench.bytes(&bytes), integers.len() / 4),
            arg(&bench.bytes(f32::as_bytes(&scales)), scales.len()),
        ];
        let plan = ctx.plan(Op::SpmmInt8, m);
        assert_eq!(plan.dequantize, m > 16, "{plan}");
        let dequantize = || {
            assert!(plan.dequantize, "{plan}");
            bench.upload(&exact)
        };
        cube::spmm_int8(ctx, bench.upload(&x), weight, dequantize, y, m);
    });
    bench.check(&format!("spmm_int8, {pattern:?}, m = {m}"), &got, &want);
}

fn gated(bench: &Bench, gate: &BlockPattern, up: &BlockPattern, f: Activation, m: usize) {
    let ctx = Context::new(&bench.client, gate, bench.dtype).unwrap();
    let plan = ctx.plan(Op::Gated { up, backward: false }, m);
    assert_eq!(plan.class(), KernelClass::Gemv, "{plan}");
    crate::gated::check(bench, gate, up, f, m);
}

/// Integers from -128 to 127, scales, and the values they stand for.
fn quantised(pattern: &BlockPattern) -> (Vec<i8>, Vec<f32>, Vec<f32>) {
    let area = pattern.block().area();
    let integers: Vec<i8> =
        values(pattern, 5).into_iter().map(|value| (value * 128.0).floor() as i8).collect();
    // Powers of two, so that the products are exact and the oracle sees the same values.
    let scales: Vec<f32> =
        (0..pattern.nnz()).map(|slot| 0.5_f32.powi(slot as i32 % 5 + 4)).collect();
    let exact =
        integers.iter().enumerate().map(|(at, &q)| f32::from(q) * scales[at / area]).collect();
    (integers, scales, exact)
}

/// One full column among short ones, with an empty column and an empty row.
fn one_long_column(rows: usize, block: usize) -> BlockPattern {
    let mut blocks: Vec<(usize, usize)> =
        (0..rows).filter(|&row| row != 1).map(|row| (row, 2)).collect();
    blocks.extend([(0, 0), (2, 3)]);
    kept([rows * block - 3, 4 * block - 5, block], &blocks)
}

#[test]
fn every_pattern_and_number_of_rows_agrees_with_the_oracle() {
    let Some(bench) = Bench::new(F32) else { return };
    for m in [1, 2, 3, 5, 15, 16] {
        spmm(&bench, &random([100, 84, 16], 0.5, 11), m);
    }
    for (sizes, m) in [([44, 36, 8], 1), ([44, 36, 8], 16), ([100, 70, 32], 3), ([200, 130, 64], 2)]
    {
        spmm(&bench, &random(sizes, 0.6, 11), m);
    }
    spmm(&bench, &random([48, 40, 16], 0.0, 11), 3);
    spmm(&bench, &random([48, 40, 16], 1.0, 11), 3);
    spmm(&bench, &kept([48, 40, 16], &[(1, 2)]), 3);
    // Split: 160 KiB in one column, and 32 KiB at least in a part.
    spmm(&bench, &one_long_column(41, 32), 3);
    spmm(&bench, &one_long_column(41, 32), 16);
}

#[test]
fn half_precision_agrees_with_the_oracle() {
    let Some(bench) = Bench::new(F16) else { return };
    for (sizes, m) in [([48, 40, 8], 3), ([97, 70, 32], 1), ([96, 64, 32], 16)] {
        spmm(&bench, &random(sizes, 0.6, 11), m);
    }
    int8(&bench, &random([96, 70, 32], 0.6, 11), 3);
    let (gate, up) = (random([96, 70, 32], 0.6, 11), random([96, 70, 32], 0.3, 11));
    gated(&bench, &gate, &up, Activation::Silu, 4);
}

#[test]
fn split_columns_give_the_same_bits_every_time() {
    let Some(bench) = Bench::new(F32) else { return };
    let pattern = one_long_column(41, 32);
    let shape = pattern.shape();
    let (x, values) = (numbers(2 * shape.rows(), 1), values(&pattern, 2));
    let run = || {
        let got = bench.run(&pattern, 2 * shape.cols(), |ctx, y| {
            cube::spmm(ctx, bench.upload(&x), bench.upload(&values), Epilogue::default(), y, 2);
        });
        got.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let first = run();
    assert!((0..5).all(|_| run() == first));
}

#[test]
fn integers_with_scales_agree_with_the_oracle() {
    let Some(bench) = Bench::new(F32) else { return };
    for (sizes, m) in
        [([44, 36, 8], 1), ([44, 36, 8], 16), ([100, 70, 16], 3), ([200, 130, 64], 15)]
    {
        int8(&bench, &random(sizes, 0.6, 11), m);
    }
    int8(&bench, &random([48, 40, 16], 0.0, 11), 2);
    // More rows than the kernel takes: the values are multiplied by their scales first.
    int8(&bench, &random([100, 70, 16], 0.5, 11), 33);
    // Four parts of 32 KiB.
    int8(&bench, &one_long_column(130, 32), 2);
}

#[test]
fn gate_and_up_in_one_launch_agree_with_the_oracle() {
    let Some(bench) = Bench::new(F32) else { return };
    let (gate, up) = (random([52, 84, 16], 0.5, 11), kept([52, 84, 16], &[(0, 0), (3, 0), (1, 5)]));
    for (activation, m) in [(Activation::Silu, 1), (Activation::Gelu, 3), (Activation::Relu, 16)] {
        gated(&bench, &gate, &up, activation, m);
    }
    // One of the two has no blocks.
    let none = random([52, 84, 16], 0.0, 11);
    gated(&bench, &none, &up, Activation::Silu, 1);
    gated(&bench, &gate, &none, Activation::Silu, 1);
    // A long column, which is split.
    let up = random([41 * 32 - 3, 4 * 32 - 5, 32], 0.3, 11);
    gated(&bench, &one_long_column(41, 32), &up, Activation::Silu, 2);
}

#[test]
fn an_activation_is_left_to_the_caller() {
    let Some(bench) = Bench::new(F32) else { return };
    let pattern = random([32, 48, 16], 0.5, 11);
    let (x, values) = (numbers(3 * 32, 1), values(&pattern, 2));
    let want = reference::spmm(&x, &values, None, &pattern);
    let got = bench.run(&pattern, want.len(), |ctx, y| {
        let epilogue = Epilogue { activation: Some(Activation::Silu), ..Epilogue::default() };
        let unfused = cube::spmm(ctx, bench.upload(&x), bench.upload(&values), epilogue, y, 3);
        assert_eq!(unfused, Unfused::Activation);
    });
    bench.check("spmm without its activation", &got, &want);
}
