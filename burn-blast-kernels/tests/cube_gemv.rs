//! The CubeCL kernels for few rows against the f64 oracle, on whatever adapter wgpu finds.
//!
//! Output buffers hold NaN before each launch, so an element that is not written fails its check.

#![cfg(feature = "cube")]

mod common;
mod gpu;

use burn_blast_kernels::Activation;
use burn_blast_kernels::cube::{self, Context, Epilogue, KernelClass, Left, Op};
use burn_blast_kernels::reference::{self, Exact, Rounding};
use burn_blast_kernels::{BlockMask, BlockPattern, BlockSize, MatrixShape, pack};
use common::{numbers, values};
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use gpu::client;
use half::f16;

const F32: ElemType = ElemType::Float(FloatKind::F32);
const F16: ElemType = ElemType::Float(FloatKind::F16);

/// Tensors of one type on one device.
struct Bench {
    client: Client,
    dtype: ElemType,
}

impl Bench {
    /// `None` without an adapter, or if it does not know the type.
    fn new(dtype: ElemType) -> Option<Self> {
        let bench = Self { client: client()?, dtype };
        let pattern = random([8, 8, 8], 1.0);
        match Context::new(&bench.client, &pattern, dtype) {
            Ok(_) => Some(bench),
            Err(error) => {
                println!("skipped: {error}");
                None
            }
        }
    }

    fn round(&self, data: Vec<f32>) -> Vec<f32> {
        if self.dtype == F32 {
            return data;
        }
        data.into_iter().map(|value| f16::from_f32(value).to_f32()).collect()
    }

    fn bytes(&self, data: &[f32]) -> Vec<u8> {
        if self.dtype == F32 {
            return f32::as_bytes(data).to_vec();
        }
        let halves: Vec<f16> = data.iter().map(|&value| f16::from_f32(value)).collect();
        f16::as_bytes(&halves).to_vec()
    }

    fn buffer(&self, bytes: &[u8], len: usize) -> BufferArg {
        let bytes = if bytes.is_empty() { &[0; 16] } else { bytes };
        // SAFETY: the buffer holds at least that many elements.
        unsafe { BufferArg::from_raw_parts(self.client.create_from_slice(bytes), len) }
    }

    fn upload(&self, data: &[f32]) -> BufferArg {
        self.buffer(&self.bytes(data), data.len())
    }

    /// What a launch writes to a buffer full of NaN.
    fn run(
        &self,
        pattern: &BlockPattern,
        len: usize,
        launch: impl FnOnce(&Context, BufferArg),
    ) -> Vec<f32> {
        let poison = self.bytes(&vec![f32::NAN; len]);
        let handle = self.client.create_from_slice(&poison);
        // SAFETY: the buffer was made with this length.
        let out = unsafe { BufferArg::from_raw_parts(handle.clone(), len) };
        launch(&Context::new(&self.client, pattern, self.dtype).unwrap(), out);
        let bytes = self.client.read_one(handle).unwrap();
        let bytes = &bytes[..poison.len()];
        if self.dtype == F32 {
            return f32::from_bytes(bytes).to_vec();
        }
        f16::from_bytes(bytes).iter().map(|value| value.to_f32()).collect()
    }

    fn rounding(&self) -> Rounding {
        if self.dtype == F32 { Rounding::F32 } else { Rounding::F16 }
    }

    fn check(&self, name: &str, pattern: &BlockPattern, m: usize, got: &[f32], want: &[Exact]) {
        if let Err(error) = self.rounding().check(got, want) {
            panic!("{name}, {pattern:?}, {:?}, m = {m}: {error}", self.dtype);
        }
    }

    fn spmm(&self, pattern: &BlockPattern, m: usize) {
        let shape = pattern.shape();
        let x = self.round(numbers(m * shape.rows(), 1));
        let (values, bias) = (self.round(values(pattern, 2)), self.round(numbers(shape.cols(), 3)));
        for bias in [None, Some(bias.as_slice())] {
            let want = reference::spmm(&x, &values, bias, pattern);
            let got = self.run(pattern, want.len(), |ctx, y| {
                assert_eq!(ctx.plan(Op::PRODUCT, m).class(), KernelClass::Gemv);
                let bias = bias.map(|bias| self.upload(bias));
                cube::spmm(ctx, self.upload(&x), self.upload(&values), Epilogue::bias(bias), y, m);
            });
            self.check("spmm", pattern, m, &got, &want);
        }
    }

    fn int8(&self, pattern: &BlockPattern, m: usize) {
        let shape = pattern.shape();
        let x = self.round(numbers(m * shape.rows(), 1));
        let (integers, scales, exact) = quantised(pattern);
        let want = reference::spmm(&x, &exact, None, pattern);
        let got = self.run(pattern, want.len(), |ctx, y| {
            let bytes: Vec<u8> = integers.iter().map(|&value| value as u8).collect();
            let weight = [
                self.buffer(&bytes, integers.len() / 4),
                self.buffer(f32::as_bytes(&scales), scales.len()),
            ];
            let plan = ctx.plan(Op::SpmmInt8, m);
            assert_eq!(plan.dequantize, m > 16, "{plan}");
            let dequantize = || {
                assert!(plan.dequantize, "{plan}");
                self.upload(&exact)
            };
            cube::spmm_int8(ctx, self.upload(&x), weight, dequantize, y, m);
        });
        self.check("spmm_int8", pattern, m, &got, &want);
    }

    fn gated(&self, gate: &BlockPattern, up: &BlockPattern, activation: Activation, m: usize) {
        let shape = gate.shape();
        let x = self.round(numbers(m * shape.rows(), 1));
        let weights = [self.round(values(gate, 2)), self.round(values(up, 4))];
        let gates = reference::spmm(&x, &weights[0], None, gate);
        let ups = reference::spmm(&x, &weights[1], None, up);
        let got = self.run(gate, gates.len(), |ctx, y| {
            let values = [self.upload(&weights[0]), self.upload(&weights[1])];
            let plan = ctx.plan(Op::Gated { up, backward: false }, m);
            assert_eq!(plan.class(), KernelClass::Gemv, "{plan}");
            cube::gated_hidden(ctx, up, activation, self.upload(&x), values, y, m);
        });
        let unit = self.rounding();
        for (at, ((got, gate), up)) in got.into_iter().zip(gates).zip(ups).enumerate() {
            let f = value(activation, gate.value);
            // Slopes of the activations stay below 1.2; the fit of the error function is good to 1e-6.
            let sums = Rounding { output: 0.0, ..unit };
            let off = 1.2 * sums.limit(&gate) + 1e-6 * (1.0 + f.abs());
            let want = f * up.value;
            let limit = off * up.value.abs()
                + sums.limit(&up) * (f.abs() + off)
                + unit.output * want.abs()
                + 1e-7;
            let distance = (f64::from(got) - want).abs();
            assert!(distance <= limit, "{activation:?}, m = {m}, element {at}: {got}, want {want}");
        }
    }
}

/// The activation in f64; the error function by its series.
fn value(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => {
            let z = x * std::f64::consts::FRAC_1_SQRT_2;
            let (mut term, mut sum) = (z, z);
            for n in 1..200 {
                term *= -z * z / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            0.5 * x * (1.0 + sum * 2.0 / std::f64::consts::PI.sqrt())
        }
    }
}

fn random([rows, cols, block]: [usize; 3], density: f64) -> BlockPattern {
    let shape = MatrixShape::new(rows, cols).unwrap();
    BlockPattern::random(shape, BlockSize::new(block).unwrap(), density, 11)
}

/// Kept blocks `(row, col)`.
fn kept([rows, cols, block]: [usize; 3], blocks: &[(usize, usize)]) -> BlockPattern {
    let shape = MatrixShape::new(rows, cols).unwrap();
    let mut mask = BlockMask::empty(shape, BlockSize::new(block).unwrap());
    for &(row, col) in blocks {
        mask.set(row, col, true);
    }
    BlockPattern::from_mask(&mask)
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
fn every_number_of_rows_agrees_with_the_oracle() {
    let Some(bench) = Bench::new(F32) else { return };
    for m in [1, 2, 3, 5, 15, 16] {
        bench.spmm(&random([100, 84, 16], 0.5), m);
    }
}

#[test]
fn small_and_large_blocks_agree_with_the_oracle() {
    let Some(bench) = Bench::new(F32) else { return };
    for (sizes, m) in [([44, 36, 8], 1), ([44, 36, 8], 16), ([100, 70, 32], 3), ([200, 130, 64], 2)]
    {
        bench.spmm(&random(sizes, 0.6), m);
    }
}

#[test]
fn half_precision_agrees_with_the_oracle() {
    let Some(bench) = Bench::new(F16) else { return };
    for (sizes, m) in [([48, 40, 8], 3), ([97, 70, 32], 1), ([96, 64, 32], 16)] {
        bench.spmm(&random(sizes, 0.6), m);
    }
}

#[test]
fn empty_full_and_single_block_patterns_agree_with_the_oracle() {
    let Some(bench) = Bench::new(F32) else { return };
    bench.spmm(&random([48, 40, 16], 0.0), 3);
    bench.spmm(&random([48, 40, 16], 1.0), 3);
    bench.spmm(&kept([48, 40, 16], &[(1, 2)]), 3);
}

#[test]
fn a_long_column_is_split_and_added_up() {
    let Some(bench) = Bench::new(F32) else { return };
    // 160 KiB in one column, and 32 KiB at least in a part.
    bench.spmm(&one_long_column(41, 32), 3);
    bench.spmm(&one_long_column(41, 32), 16);
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
fn nan_in_one_row_stays_in_it() {
    let Some(bench) = Bench::new(F32) else { return };
    let pattern = random([32, 32, 16], 1.0);
    let mut x = numbers(3 * 32, 1);
    x[32] = f32::NAN;
    let got = bench.run(&pattern, 3 * 32, |ctx, y| {
        let values = bench.upload(&vec![0.0; pattern.value_count()]);
        cube::spmm(ctx, bench.upload(&x), values, Epilogue::default(), y, 3);
    });
    for (at, value) in got.into_iter().enumerate() {
        assert_eq!(value.is_nan(), at / 32 == 1, "element {at}: {value}");
    }
}

#[test]
fn integers_with_scales_agree_with_the_oracle() {
    let Some(bench) = Bench::new(F32) else { return };
    for (sizes, m) in
        [([44, 36, 8], 1), ([44, 36, 8], 16), ([100, 70, 16], 3), ([200, 130, 64], 15)]
    {
        bench.int8(&random(sizes, 0.6), m);
    }
    bench.int8(&random([48, 40, 16], 0.0), 2);
    // More rows than the kernel takes: the values are multiplied by their scales first.
    bench.int8(&random([100, 70, 16], 0.5), 33);
    // Four parts of 32 KiB.
    bench.int8(&one_long_column(130, 32), 2);
}

#[test]
fn integers_meet_inputs_in_half_precision() {
    let Some(bench) = Bench::new(F16) else { return };
    bench.int8(&random([96, 70, 32], 0.6), 3);
}

#[test]
fn gate_and_up_in_one_launch_agree_with_the_oracle() {
    let Some(bench) = Bench::new(F32) else { return };
    let (gate, up) = (random([52, 84, 16], 0.5), kept([52, 84, 16], &[(0, 0), (3, 0), (1, 5)]));
    for (activation, m) in [(Activation::Silu, 1), (Activation::Gelu, 3), (Activation::Relu, 16)] {
        bench.gated(&gate, &up, activation, m);
    }
    // One of the two has no blocks.
    let none = random([52, 84, 16], 0.0);
    bench.gated(&none, &up, Activation::Silu, 1);
    bench.gated(&gate, &none, Activation::Silu, 1);
}

#[test]
fn a_gated_pair_is_split_and_added_up() {
    let Some(bench) = Bench::new(F32) else { return };
    let gate = one_long_column(41, 32);
    let up = random([41 * 32 - 3, 4 * 32 - 5, 32], 0.3);
    bench.gated(&gate, &up, Activation::Silu, 2);
}

#[test]
fn a_gated_pair_in_half_precision() {
    let Some(bench) = Bench::new(F16) else { return };
    let (gate, up) = (random([96, 70, 32], 0.6), random([96, 70, 32], 0.3));
    bench.gated(&gate, &up, Activation::Silu, 4);
}

#[test]
fn no_rows_write_nothing() {
    let Some(bench) = Bench::new(F32) else { return };
    let pattern = random([32, 48, 16], 0.5);
    let ctx = Context::new(&bench.client, &pattern, F32).unwrap();
    let values = bench.upload(&values(&pattern, 2));
    cube::spmm(&ctx, bench.buffer(&[], 0), values, Epilogue::default(), bench.buffer(&[], 0), 0);
}

#[test]
fn an_activation_is_left_to_the_caller() {
    let Some(bench) = Bench::new(F32) else { return };
    let pattern = random([32, 48, 16], 0.5);
    let (x, values) = (numbers(3 * 32, 1), values(&pattern, 2));
    let want = reference::spmm(&x, &values, None, &pattern);
    let got = bench.run(&pattern, want.len(), |ctx, y| {
        let epilogue = Epilogue { activation: Some(Activation::Silu), ..Epilogue::default() };
        let left = cube::spmm(ctx, bench.upload(&x), bench.upload(&values), epilogue, y, 3);
        assert_eq!(left, Left::Activation);
    });
    bench.check("spmm without its activation", &pattern, 3, &got, &want);
}

#[test]
fn unpacked_integers_are_what_the_oracle_multiplies() {
    let pattern = random([16, 16, 8], 1.0);
    let (integers, scales, exact) = quantised(&pattern);
    assert!(integers.contains(&-128) || integers.iter().any(|&q| q < -100));
    assert_eq!(pack::unpack(&exact, &pattern)[0], f32::from(integers[0]) * scales[0]);
}
