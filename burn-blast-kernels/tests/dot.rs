//! Products by dot products of pairs of bf16 and of four 8-bit integers, against the f64 oracle. Factors that are bf16
//! already are rounded no further, so that products in f32 must then be as exact as without the switch.
//!
//! On a processor without such dot products the same checks run on the ordinary kernels; the output says which.

mod common;

use std::mem::MaybeUninit;

use burn_blast_kernels::cpu::{
    self, HostFloat, Mlp, MlpLayer, Values, allow_bf16, allow_int8, has_integer_dot_products,
    prefer_dot_products,
};
use burn_blast_kernels::reference::{self, Exact, Rounding};
use burn_blast_kernels::{Activation, BlockMask, BlockPattern, BlockSize, MatrixShape};
use common::{numbers, random, values};
use half::{bf16, f16};

/// Numbers of rows: one, two, and around the widths of pairs, vectors, tiles and passes.
const ROWS: [usize; 11] = [0, 1, 2, 3, 15, 16, 17, 33, 64, 131, 300];

/// Every test of this program has the switches on. Returns whether there are dot products of pairs.
fn allowed() -> bool {
    allow_bf16(true);
    allow_int8(true);
    let found = prefer_dot_products();
    println!("dot products of bf16: {found}, of integers: {}", has_integer_dot_products());
    found
}

/// Numbers that are bf16.
fn halves(numbers: Vec<f32>) -> (Vec<bf16>, Vec<f32>) {
    let stored = bf16::narrow(numbers);
    let exact = bf16::widen(&stored).into_owned();
    (stored, exact)
}

/// Whole and odd sizes; none, one, some and all blocks; empty rows and columns.
fn patterns(block: usize) -> Vec<(String, BlockPattern)> {
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
fn written<T: HostFloat>(len: usize, write: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<f32> {
    let mut out = vec![MaybeUninit::new(T::narrow(vec![f32::NAN])[0]); len];
    write(&mut out);
    // SAFETY: it was initialised with NaN.
    let out: Vec<T> = out.into_iter().map(|y| unsafe { y.assume_init() }).collect();
    T::widen(&out).into_owned()
}

fn expect(case: &str, rounding: Rounding, got: &[f32], want: &[Exact]) {
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

/// `x [m, width]` as integers times a scale for each row and block column, and half of that scale for each element.
fn quantized(x: &[f32], width: usize, b: usize) -> (Vec<f32>, Vec<f32>) {
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
    x[..shape.rows()].fill(0.0);
    x[m * shape.rows() - 1] = 100.0;
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
        BlockPattern::banded(MatrixShape::new(32, 32).unwrap(), BlockSize::new(16).unwrap(), 0);
    let mut x = vec![1.0; 32];
    x[0] = f32::NAN;
    let y = cpu::spmm(&x, &vec![1.0; pattern.value_count()], None, &pattern, 1);
    assert!(y[..16].iter().all(|y| y.is_nan()) && y[16..].iter().all(|&y| y == 16.0));
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

/// A feed-forward block and its separate products, of which each rounds its factors.
struct Case {
    patterns: [BlockPattern; 3],
    weights: [Vec<f32>; 3],
    x: Vec<f32>,
    dy: Vec<f32>,
    bias: Vec<f32>,
    gated: bool,
    m: usize,
}

/// What the block gives, in this order: y, and the gradients of x, gate, up (if there is one) and down.
type Results = Vec<Vec<f32>>;

impl Case {
    fn new(gated: bool, block: usize, m: usize) -> Self {
        let sizes = [
            (1, 2 * block + 3, 3 * block + 1),
            (2, 2 * block + 3, 3 * block + 1),
            (3, 3 * block + 1, block + 5),
        ];
        let patterns = sizes.map(|(seed, rows, cols)| random([rows, cols, block], 0.6, seed));
        let (k, f, n) = (2 * block + 3, 3 * block + 1, block + 5);
        let weights = patterns.each_ref().map(|pattern| halves(values(pattern, 9)).1);
        let [x, dy, bias] =
            [(4, m * k), (5, m * n), (6, f)].map(|(seed, len)| halves(numbers(len, seed)).1);
        Self { patterns, weights, x, dy, bias, gated, m }
    }

    /// As one operation, with NaN where the weights have no elements.
    fn fused<T: HostFloat>(&self) -> Results {
        let poisoned: [Vec<T>; 3] =
            [0, 1, 2].map(|at| T::narrow(poisoned(&self.weights[at], &self.patterns[at])));
        let layer = |at: usize| MlpLayer::new(T::values(&poisoned[at]), &self.patterns[at]);
        let mlp = Mlp {
            gate: layer(0),
            up: self.gated.then(|| layer(1)),
            down: layer(2),
            activation: Activation::Silu,
            gate_bias: (!self.gated).then_some(&self.bias[..]),
            down_bias: None,
        };
        let (x, dy) = (T::narrow(self.x.clone()), T::narrow(self.dy.clone()));
        let y = written(self.dy.len(), |out| cpu::mlp_into(&x, &mlp, out));
        let gradients = cpu::mlp_backward(&x, &dy, &mlp, self.m);
        let weights = [Some(gradients.gate), gradients.up, Some(gradients.down)];
        let mut results = vec![y, T::widen(&gradients.input).into_owned()];
        results.extend(
            self.patterns
                .iter()
                .zip(weights)
                .filter_map(|(pattern, gradient)| Some(inside(&T::widen(&gradient?), pattern))),
        );
        results
    }

    fn separate(&self) -> Results {
        let ([gate, up, down], [wg, wu, wd]) = (&self.patterns, &self.weights);
        let (m, f) = (self.m, gate.shape().cols());
        let bias = (!self.gated).then_some(&self.bias[..]);
        let g = cpu::spmm(&self.x, wg, bias, gate, m);
        let u = match self.gated {
            true => cpu::spmm(&self.x, wu, None, up, m),
            false => vec![1.0; m * f],
        };
        let silu = |g: f32| reference::activation(Activation::Silu, g.into());
        let dh = cpu::spmm_t(&self.dy, wd, down, m);
        let each = |value: &dyn Fn(usize) -> f32| (0..m * f).map(value).collect::<Vec<f32>>();
        let h = each(&|at| silu(g[at]).0 as f32 * u[at]);
        let dg = each(&|at| dh[at] * u[at] * silu(g[at]).1 as f32);
        let du = each(&|at| dh[at] * silu(g[at]).0 as f32);
        let mut dx = cpu::spmm_t(&dg, wg, gate, m);
        if self.gated {
            let more = cpu::spmm_t(&du, wu, up, m);
            dx.iter_mut().zip(more).for_each(|(dx, more)| *dx += more);
        }
        let mut results = vec![cpu::spmm(&h, wd, None, down, m), dx];
        results.push(inside(&cpu::sddmm(&self.x, &dg, gate, m), gate));
        if self.gated {
            results.push(inside(&cpu::sddmm(&self.x, &du, up, m), up));
        }
        results.push(inside(&cpu::sddmm(&h, &self.dy, down, m), down));
        results
    }
}

/// The elements that are inside the weight.
fn inside(values: &[f32], pattern: &BlockPattern) -> Vec<f32> {
    let marked = poisoned(&vec![0.0; values.len()], pattern);
    values.iter().zip(marked).filter(|(_, mark)| !mark.is_nan()).map(|(value, _)| *value).collect()
}

#[test]
fn a_feed_forward_block_is_its_products() {
    allowed();
    for (gated, block, m) in [(true, 16, 33), (true, 32, 700), (false, 16, 131), (false, 64, 20)] {
        let case = Case::new(gated, block, m);
        let want = case.separate();
        let name = format!("gated {gated}, block {block}, {m} rows");
        let results = [("f32", case.fused::<f32>(), 2e-6), ("bf16", case.fused::<bf16>(), 8e-3)];
        for (dtype, got, error) in results {
            assert_eq!(got.len(), want.len());
            for (at, (got, want)) in got.iter().zip(&want).enumerate() {
                close(&format!("result {at} in {dtype}, {name}"), got, want, error);
            }
        }
    }
}

/// Hidden features of the two ways differ in the last bits of f32, so a few are rounded to the neighbour in bf16: 2⁻⁷ of
/// one term in a sum of many. All others have the error of their own rounding.
fn close(what: &str, got: &[f32], want: &[f32], error: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1e-3_f32, |scale, want| scale.max(want.abs()));
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= (2e-3 + error) * scale, "{what}, {at}: {got} for {want}");
    }
    let near = |got: f32, want: f32| (got - want).abs() <= error * want.abs().max(scale * 0.5);
    let same = got.iter().zip(want).filter(|(got, want)| near(**got, **want)).count();
    assert!(10 * same >= 9 * got.len(), "{what}: {same} of {} equal", got.len());
}
