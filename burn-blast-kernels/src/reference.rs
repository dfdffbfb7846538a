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

mod gated;

pub use gated::{activate, activation, gated_gradients, gated_hidden};

use crate::{BlockPattern, pack};

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
    let mut y = Vec::new();
    for line in x.chunks_exact(rows) {
        for n in 0..cols {
            let mut sum = Exact::ZERO;
            for (k, &x) in line.iter().enumerate() {
                if kept(pattern, k, n) {
                    sum.add(f64::from(x) * f64::from(dense[k * cols + n]));
                }
            }
            if let Some(bias) = bias {
                sum.add(f64::from(bias[n]));
            }
            y.push(sum);
        }
    }
    y
}

/// `dx = dy · wᵀ`. Shapes: `dy [m, d_output]`, result `[m, d_input]`.
pub fn spmm_t(dy: &[f32], values: &[f32], pattern: &BlockPattern) -> Vec<Exact> {
    let (rows, cols) = (pattern.shape().rows(), pattern.shape().cols());
    let dense = pack::unpack(values, pattern);
    let mut dx = Vec::new();
    for line in dy.chunks_exact(cols) {
        for k in 0..rows {
            let mut sum = Exact::ZERO;
            for (n, &dy) in line.iter().enumerate() {
                if kept(pattern, k, n) {
                    sum.add(f64::from(dy) * f64::from(dense[k * cols + n]));
                }
            }
            dx.push(sum);
        }
    }
    dx
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

fn kept(pattern: &BlockPattern, k: usize, n: usize) -> bool {
    let (row, col) = ((k / pattern.block().get()) as u32, n / pattern.block().get());
    let column = pattern.col_ptr()[col] as usize..pattern.col_ptr()[col + 1] as usize;
    pattern.row_idx()[column].binary_search(&row).is_ok()
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
