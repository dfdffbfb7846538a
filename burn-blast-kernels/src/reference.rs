//! The f64 oracle for tests of kernels: one plain loop per operation. Needs the feature `testing`.
//!
//! Each element comes with `Σ|a·b|` and the number of terms, from which [`Rounding::limit`] derives the largest error
//! that a kernel may have. The bound is tight enough that a single dropped block exceeds it.
//!
//! # Example
//! ```
//! use burn_blast_kernels::reference::{self, Rounding};
//! use burn_blast_kernels::{BlockPattern, BlockSize, MatrixShape, cpu};
//!
//! let shape = MatrixShape::new(64, 48)?;
//! let pattern = BlockPattern::random(shape, BlockSize::new(16)?, 0.5, 1);
//! let values: Vec<f32> = (0..pattern.value_count()).map(|at| (at as f32).sin()).collect();
//! let x: Vec<f32> = (0..3 * 64).map(|at| (at as f32).cos()).collect();
//!
//! let y = cpu::spmm(&x, &values, None, &pattern, 3);
//! let want = reference::spmm(&x, &values, None, &pattern);
//! Rounding::F32.check(&y, &want).unwrap();
//! # Ok::<(), burn_blast_kernels::PatternError>(())
//! ```

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use rayon::prelude::*;

use crate::{Activation, BlockPattern, pack};

/// An exact element, with what is needed to bound the error of computing it in floating point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exact {
    /// The sum in f64.
    pub value: f64,
    /// Sum of the absolute values of the terms.
    pub abs_sum: f64,
    /// Number of terms.
    pub terms: usize,
}

impl Exact {
    const ZERO: Self = Self { value: 0.0, abs_sum: 0.0, terms: 0 };

    /// The sum of products of pairs.
    pub fn dot(pairs: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut sum = Self::ZERO;
        pairs.into_iter().for_each(|(a, b)| sum.add(a * b));
        sum
    }

    /// Adds one term.
    pub fn add(&mut self, term: f64) {
        self.value += term;
        self.abs_sum += term.abs();
        self.terms += 1;
    }
}

/// Unit roundoffs of the arithmetic that is tested.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rounding {
    /// Roundoff of an input before it is multiplied; 0 if inputs are exact.
    pub input: f64,
    /// Roundoff of the accumulator.
    pub accumulate: f64,
    /// Roundoff of the stored result.
    pub output: f64,
}

impl Rounding {
    /// Inputs and results in f32, sums in f32.
    pub const F32: Self = Self { input: 0.0, accumulate: 6.0e-8, output: 6.0e-8 };
    /// Inputs and results in f16, sums in f32.
    pub const F16: Self = Self { input: 0.0, accumulate: 6.0e-8, output: 4.9e-4 };
    /// Inputs and results in bf16, sums in f32.
    pub const BF16: Self = Self { input: 0.0, accumulate: 6.0e-8, output: 3.95e-3 };
    /// Inputs and results in f32, inputs rounded to TF32 before they are multiplied, sums in f32. The roundoff of 10 bits
    /// is 2⁻¹¹; the slope of an activation increases it up to 1.2 times.
    pub const TF32: Self = Self { input: 5.9e-4, accumulate: 6.0e-8, output: 6.0e-8 };

    /// Largest allowed distance from `exact`.
    pub fn limit(&self, exact: &Exact) -> f64 {
        // Below f16's normal range the spacing is absolute, not relative.
        let subnormal = if self.output > 1e-6 { 6.0e-8 } else { 1.2e-38 };
        let accumulated = self.accumulate * (exact.terms + 2) as f64 * exact.abs_sum;
        accumulated
            + 2.0 * self.input * exact.abs_sum
            + self.output * (exact.value.abs() + accumulated)
            + subnormal
    }

    /// Checks a result against the exact one.
    ///
    /// # Errors
    /// A message with the first element whose error exceeds the limit, or with the lengths if they differ.
    pub fn check(&self, got: &[f32], want: &[Exact]) -> Result<(), String> {
        if got.len() != want.len() {
            return Err(format!("got {} elements, want {}", got.len(), want.len()));
        }
        for (at, (&got, want)) in got.iter().zip(want).enumerate() {
            let limit = self.limit(want);
            let off = (f64::from(got) - want.value).abs();
            // A NaN distance must fail, so the test is not `off > limit`.
            if !matches!(off.partial_cmp(&limit), Some(order) if order.is_le()) {
                return Err(format!("element {at}: got {got}, want {} ± {limit:e}", want.value));
            }
        }
        Ok(())
    }
}

/// `y = x · w + bias`. Shapes: `x [m, d_input]`, result `[m, d_output]`.
pub fn spmm(x: &[f32], values: &[f32], bias: Option<&[f32]>, pattern: &BlockPattern) -> Vec<Exact> {
    let (rows, cols) = (pattern.shape().rows(), pattern.shape().cols());
    let dense = pack::unpack(values, pattern);
    let blocks = kept_blocks([pattern.block_rows(), pattern.block_cols()], |row, col| {
        kept(pattern, row, col)
    });
    product(x, [rows, cols], bias, (pattern.block().get(), &blocks), |k, n| dense[k * cols + n])
}

/// `dx = dy · wᵀ`. Shapes: `dy [m, d_output]`, result `[m, d_input]`.
pub fn spmm_t(dy: &[f32], values: &[f32], pattern: &BlockPattern) -> Vec<Exact> {
    let (rows, cols) = (pattern.shape().rows(), pattern.shape().cols());
    let dense = pack::unpack(values, pattern);
    let blocks = kept_blocks([pattern.block_cols(), pattern.block_rows()], |col, row| {
        kept(pattern, row, col)
    });
    product(dy, [cols, rows], None, (pattern.block().get(), &blocks), |n, k| dense[k * cols + n])
}

/// For each outer number of a grid of `[inner, outer]` blocks, the inner numbers of its kept blocks, in order.
fn kept_blocks([inner, outer]: [usize; 2], kept: impl Fn(usize, usize) -> bool) -> Vec<Vec<usize>> {
    (0..outer).map(|outer| (0..inner).filter(|&inner| kept(inner, outer)).collect()).collect()
}

/// `x · w + bias` with a weight of `[inner, outer]` at the kept blocks of this size, in the order of the contraction.
fn product(
    x: &[f32],
    [inner, outer]: [usize; 2],
    bias: Option<&[f32]>,
    (block, kept): (usize, &[Vec<usize>]),
    weight: impl Fn(usize, usize) -> f32 + Sync,
) -> Vec<Exact> {
    let line = |line: &[f32]| {
        let mut y = vec![Exact::ZERO; outer];
        for (y, (at, kept)) in y.chunks_mut(block).zip(kept.iter().enumerate()) {
            for k in kept.iter().flat_map(|row| row * block..inner.min((row + 1) * block)) {
                for (n, sum) in (at * block..).zip(y.iter_mut()) {
                    sum.add(f64::from(line[k]) * f64::from(weight(k, n)));
                }
            }
        }
        if let Some(bias) = bias {
            y.iter_mut().zip(bias).for_each(|(sum, &bias)| sum.add(f64::from(bias)));
        }
        y
    };
    x.par_chunks_exact(inner).flat_map_iter(line).collect()
}

/// `xᵀ · dy` at the kept blocks. Result `[nnz, b, b]`.
pub fn sddmm(x: &[f32], dy: &[f32], pattern: &BlockPattern) -> Vec<Exact> {
    let b = pattern.block().get();
    let mut values = Vec::with_capacity(pattern.value_count());
    for (row, col) in pattern.blocks() {
        for k in row * b..(row + 1) * b {
            for n in col * b..(col + 1) * b {
                values.push(gradient(x, dy, pattern, k, n));
            }
        }
    }
    values
}

/// Frobenius norm of each block. Result `[nnz]`.
pub fn block_norms(values: &[f32], pattern: &BlockPattern) -> Vec<Exact> {
    values
        .chunks_exact(pattern.block().area())
        .map(|block| {
            norm(block.iter().map(|&value| Exact { value: f64::from(value), ..Exact::ZERO }))
        })
        .collect()
}

/// Frobenius norm of every block of `xᵀ · dy`. Result `[block_rows, block_cols]`.
pub fn grad_block_norms(x: &[f32], dy: &[f32], pattern: &BlockPattern) -> Vec<Exact> {
    let b = pattern.block().get();
    let mut norms = Vec::with_capacity(pattern.block_count());
    for row in 0..pattern.block_rows() {
        for col in 0..pattern.block_cols() {
            let cells =
                (0..b * b).map(|at| gradient(x, dy, pattern, row * b + at / b, col * b + at % b));
            norms.push(norm(cells));
        }
    }
    norms
}

fn kept(pattern: &BlockPattern, row: usize, col: usize) -> bool {
    let column = pattern.col_ptr()[col] as usize..pattern.col_ptr()[col + 1] as usize;
    pattern.row_idx()[column].binary_search(&(row as u32)).is_ok()
}

/// One element of `xᵀ · dy`, zero outside the weight.
fn gradient(x: &[f32], dy: &[f32], pattern: &BlockPattern, k: usize, n: usize) -> Exact {
    let (rows, cols) = (pattern.shape().rows(), pattern.shape().cols());
    let mut sum = Exact::ZERO;
    if k < rows && n < cols {
        for (x, dy) in x.chunks_exact(rows).zip(dy.chunks_exact(cols)) {
            sum.add(f64::from(x[k]) * f64::from(dy[n]));
        }
    }
    sum
}

/// Norm of cells with error bounds. By the triangle inequality, the error of the norm is at most the norm of the errors of
/// the cells, plus the rounding of summing the squares in any order.
fn norm(cells: impl Iterator<Item = Exact>) -> Exact {
    let (mut squares, mut abs_squares, mut terms, mut count) = (0.0, 0.0, 0, 0_usize);
    for cell in cells {
        squares += cell.value * cell.value;
        abs_squares += cell.abs_sum.max(cell.value.abs()).powi(2);
        terms = terms.max(cell.terms);
        count += 1;
    }
    // Kernels sum squares in strides and trees: at most about `2 · side` successive roundings.
    let roundings = 2 * count.isqrt();
    Exact { value: f64::sqrt(squares), abs_sum: f64::sqrt(abs_squares), terms: terms + roundings }
}

// Activations and gated blocks. A function multiplies the error of its argument by its slope, at most 1.2 for these
// activations; a product multiplies it by the other factor. Both are bounded by absolute sums, because `|f(x)| <= |x|`.

/// Roundings that an activation in f32 may add, in units of its argument: the steps of its polynomial, and an `exp` with
/// the error that WGSL allows.
const ACTIVATION_ROUNDINGS: usize = 16;

/// Largest relative error of one addition in f32.
const F32_ROUNDING: f64 = 6.0e-8;
/// Absolute sum of an element that may be any number, but not NaN. Finite, since it is multiplied by zero.
const UNBOUNDED: f64 = 1e30;

/// Value and derivative of an activation. The derivative of `Relu` is 0 at 0.
pub fn activation(f: Activation, x: f64) -> (f64, f64) {
    match f {
        Activation::Relu => (x.max(0.0), f64::from(u8::from(x > 0.0))),
        Activation::Silu => {
            let s = 1.0 / (1.0 + (-x).exp());
            (x * s, s * (1.0 + x * (1.0 - s)))
        }
        Activation::Gelu => {
            let cdf = 0.5 * (1.0 + erf(x * FRAC_1_SQRT_2));
            let density = (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
            (x * cdf, cdf + x * density)
        }
    }
}

/// `f(sum)` of each element.
pub fn activate(sums: &[Exact], f: Activation) -> Vec<Exact> {
    sums.iter()
        .map(|sum| Exact {
            value: activation(f, sum.value).0,
            abs_sum: sum.abs_sum,
            terms: 2 * (sum.terms + 2) + ACTIVATION_ROUNDINGS,
        })
        .collect()
}

/// `h = f(gate) · up` from the exact products.
pub fn gated_hidden(gate: &[Exact], up: &[Exact], f: Activation) -> Vec<Exact> {
    activate(gate, f)
        .into_iter()
        .zip(up)
        .map(|(activated, up)| Exact {
            value: activated.value * up.value,
            abs_sum: activated.abs_sum * up.abs_sum,
            terms: activated.terms + up.terms + 4,
        })
        .collect()
}

/// Gradients of gate and up from the exact products and the gradient `dh` of `h = f(gate) · up`.
pub fn gated_gradients(gate: &[Exact], up: &[Exact], dh: &[f32], f: Activation) -> [Vec<Exact>; 2] {
    let all = || gate.iter().zip(up).zip(dh).map(|((gate, up), &dh)| (gate, up, f64::from(dh)));
    // Where rounding may change the sign of a sum, the slope of `Relu` jumps, and either gradient is right.
    let jumps = |gate: &Exact| {
        let error = F32_ROUNDING * (gate.terms + 2) as f64 * gate.abs_sum;
        f == Activation::Relu && gate.abs_sum > 0.0 && gate.value.abs() <= error
    };
    let dgate = all().map(|(gate, up, dh)| Exact {
        value: dh * up.value * activation(f, gate.value).1,
        abs_sum: match jumps(gate) {
            true => UNBOUNDED,
            false => dh.abs() * up.abs_sum * (1.0 + gate.abs_sum),
        },
        terms: 2 * (gate.terms + up.terms + 4) + ACTIVATION_ROUNDINGS,
    });
    let dup = all().map(|(gate, _, dh)| Exact {
        value: dh * activation(f, gate.value).0,
        abs_sum: dh.abs() * gate.abs_sum,
        terms: 2 * (gate.terms + 2) + ACTIVATION_ROUNDINGS,
    });
    [dgate.collect(), dup.collect()]
}

/// The error function: by its power series near 0, by the continued fraction of `erfc` elsewhere.
fn erf(x: f64) -> f64 {
    let z = x.abs();
    if z > 3.0 {
        let fraction = (1..80).rev().fold(z, |tail, n| z + f64::from(n) / 2.0 / tail);
        let upper = (-z * z).exp() / PI.sqrt() / fraction;
        return (1.0 - upper).copysign(x);
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..100 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / PI.sqrt()
}
