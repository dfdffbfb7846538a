//! Prepares a problem: the sparse call, the dense call beside it, and the check of the sparse result.

mod gated;
mod product;
mod step;

use std::any::Any;

use anyhow::Result;
use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor, TensorData};
use burn_blast::module::{BlockSparseLinear, BlockSparseWeight};
use burn_blast::tuning::cost::Cost;
use burn_blast::tuning::{ProductPath, Strategy};
use burn_blast::{BlockPattern, BlockSize, MatrixShape, functions};
use burn_blast_kernels::reference::{Exact, Rounding};
use rayon::prelude::*;

use crate::element::{Element, SeededValues};
use crate::record::{Problem, Verb};

/// One timed call; the output is kept until the device has finished.
pub type Call = Box<dyn FnMut() -> AnyOutput + Send>;

/// The output of a call, of any type.
pub type AnyOutput = Box<dyn Any + Send>;

/// Runs the sparse call once and compares it with the oracle. Returns the largest error divided by its bound.
pub type Check = Box<dyn FnOnce() -> Result<f64>>;

/// A problem that is ready to be checked and timed.
pub struct Case {
    /// The block-sparse kernel.
    pub sparse: Call,
    /// Burn's dense layers on the unpacked weight.
    pub dense: Call,
    /// The layer by `Strategy::Auto` and the path it takes, for verbs that leave it a choice.
    pub auto: Option<(Call, ProductPath)>,
    /// Work of one call.
    pub work: Cost,
    /// Runs before anything is timed.
    pub check: Check,
}

/// Prepares `problem` on `device`.
///
/// # Errors
/// If sizes, block or data type are not supported.
pub fn case(problem: &Problem, device: &Device) -> Result<Case> {
    match problem.verb {
        Verb::Forward => product::forward(problem, device),
        Verb::InputGradient => product::input_gradient(problem, device),
        Verb::WeightGradient => product::weight_gradient(problem, device),
        Verb::GatedMlp => gated::case(problem, device),
        Verb::Step => step::case(problem, device),
    }
}

/// Peak memory of [`case`] and its calls in bytes.
pub fn bytes(problem: &Problem) -> f64 {
    let element = problem.dtype.dtype().size() as f64;
    let area = problem.d_input as f64 * problem.d_output as f64;
    let packed = area * (1.0 - problem.sparsity);
    let rows = problem.rows as f64;
    let (input, output) = (rows * problem.d_input as f64, rows * problem.d_output as f64);
    let held = match problem.verb {
        // Both weights, the input, and two outputs while one replaces the other.
        Verb::Forward => area + packed + input + 2.0 * output,
        Verb::InputGradient => area + packed + output + 2.0 * input,
        // The result is as large as the weight.
        Verb::WeightGradient => 2.0 * (area + packed) + input + output,
        Verb::GatedMlp => 3.0 * (area + packed) + 3.0 * input + 4.0 * output,
        // Weight, gradient, two moments, and their successors.
        Verb::Step => 7.0 * (area + packed) + 4.0 * (input + output),
    };
    // Values are computed in f32 on the host first; `Auto` may unpack the weight once more.
    held * element + 4.0 * packed.max(input) + area * element
}

/// Multiplications and additions of one dense call.
pub fn dense_flops(problem: &Problem) -> f64 {
    let one = 2.0 * problem.rows as f64 * problem.d_input as f64 * problem.d_output as f64;
    match problem.verb {
        Verb::Forward | Verb::InputGradient | Verb::WeightGradient => one,
        Verb::GatedMlp | Verb::Step => 3.0 * one,
    }
}

/// The exact value of a sum of products, and its error bound.
fn bounded(rounding: Rounding, products: impl IntoIterator<Item = (f64, f64)>) -> (f64, f64) {
    let exact = Exact::dot(products);
    (exact.value, rounding.limit(&exact))
}

/// A block-sparse weight whose values can be re-computed one by one.
#[derive(Clone)]
pub struct Weight {
    pub pattern: BlockPattern,
    /// Row and column of each block.
    blocks: Vec<(usize, usize)>,
    values: SeededValues,
    /// The values that integers stand for, if the weight was quantised.
    dequantised: Option<Vec<f32>>,
}

impl Weight {
    /// The weight of a problem of one layer.
    pub fn of(problem: &Problem) -> Result<Self> {
        Self::new([problem.d_input, problem.d_output], 1, problem)
    }

    /// A weight with random blocks, scaled so that outputs are about as large as inputs.
    pub fn new(shape: [usize; 2], seed: u64, problem: &Problem) -> Result<Self> {
        let matrix = MatrixShape::new(shape[0], shape[1])?;
        let block = BlockSize::new(problem.block)?;
        let pattern = BlockPattern::random(matrix, block, 1.0 - problem.sparsity, seed);
        let kept = (shape[0] as f64 * pattern.density()).max(1.0);
        let values = SeededValues::new(seed, f64::sqrt(3.0 / kept) as f32, problem.dtype);
        let blocks = pattern.blocks().collect();
        Ok(Self { pattern, blocks, values, dequantised: None })
    }

    /// The weight at `[k, n]`, if the block is kept.
    pub fn at(&self, k: usize, n: usize) -> f64 {
        f64::from(self.value(k, n))
    }

    /// Row and column of the `at`-th value of a block, if it is inside the weight.
    pub fn position(&self, slot: usize, at: usize) -> Option<(usize, usize)> {
        let (shape, b) = (self.pattern.shape(), self.pattern.block().get());
        let (row, col) = self.blocks[slot];
        let (k, n) = (row * b + at / b, col * b + at % b);
        (k < shape.rows() && n < shape.cols()).then_some((k, n))
    }

    /// The packed values on `device`.
    pub fn values(&self, device: &Device) -> Tensor<3> {
        let b = self.pattern.block().get();
        let mut values = vec![0.0; self.pattern.value_count()];
        values.par_chunks_exact_mut(b * b).enumerate().for_each(|(slot, block)| {
            for (at, value) in block.iter_mut().enumerate() {
                // A block is zero outside the weight.
                *value = self.position(slot, at).map_or(0.0, |(k, n)| self.value(k, n));
            }
        });
        upload(values, [self.pattern.nnz(), b, b], self.values.element, device)
    }

    /// The block-sparse layer on `device`.
    pub fn layer(&self, device: &Device) -> BlockSparseLinear {
        let packed = BlockSparseWeight::new(self.values(device), self.pattern.clone());
        BlockSparseLinear::new(packed, None).with_strategy(Strategy::Sparse)
    }

    /// The dense layer on `device`.
    pub fn linear(&self, device: &Device) -> Linear {
        Linear { weight: Param::from_tensor(self.dense(device).detach()), bias: None }
    }

    /// The dense weight on `device`.
    pub fn dense(&self, device: &Device) -> Tensor<2> {
        functions::unpack(self.values(device), &self.pattern)
    }

    /// `(k, w[k, n])` of the kept blocks of a column.
    pub fn column(&self, n: usize) -> impl Iterator<Item = (usize, f64)> {
        let (b, col) = (self.pattern.block().get(), n / self.pattern.block().get());
        let slots = self.pattern.col_ptr()[col] as usize..self.pattern.col_ptr()[col + 1] as usize;
        let (rows, row_idx) = (self.pattern.shape().rows(), self.pattern.row_idx());
        let positions =
            slots.flat_map(move |slot| span(row_idx[slot], b, rows).map(move |k| (slot, k)));
        positions.map(move |(slot, k)| match &self.dequantised {
            Some(packed) => (k, f64::from(packed[slot * b * b + k % b * b + n % b])),
            None => (k, self.at(k, n)),
        })
    }

    /// `(n, w[k, n])` of the kept blocks of a row.
    pub fn row(&self, k: usize) -> impl Iterator<Item = (usize, f64)> {
        let (b, row) = (self.pattern.block().get(), k / self.pattern.block().get());
        let blocks = self.pattern.row_ptr()[row] as usize..self.pattern.row_ptr()[row + 1] as usize;
        let cols = self.pattern.shape().cols();
        let ns = self.pattern.col_idx()[blocks].iter().flat_map(move |&col| span(col, b, cols));
        ns.map(move |n| (n, self.at(k, n)))
    }

    /// Work of a product of `rows` rows by it.
    pub fn work(&self, rows: usize) -> Cost {
        Cost::of(&self.pattern, rows, self.values.element.bytes())
    }

    fn value(&self, k: usize, n: usize) -> f32 {
        self.values.at(k * self.pattern.shape().cols() + n)
    }
}

/// A dense input whose values can be re-computed one by one.
#[derive(Clone, Copy)]
pub struct Input {
    shape: [usize; 2],
    values: SeededValues,
}

impl Input {
    /// Values between -1 and 1.
    pub fn new(shape: [usize; 2], seed: u64, problem: &Problem) -> Self {
        Self { shape, values: SeededValues::new(seed, 1.0, problem.dtype) }
    }

    /// The element at `[row, col]`.
    pub fn at(&self, row: usize, col: usize) -> f64 {
        f64::from(self.values.at(row * self.shape[1] + col))
    }

    /// The input on `device`.
    pub fn tensor(&self, device: &Device) -> Tensor<2> {
        let count = self.shape[0] * self.shape[1];
        let numbers = (0..count).into_par_iter().map(|at| self.values.at(at)).collect();
        upload(numbers, self.shape, self.values.element, device)
    }
}

/// Boxes an output, to be kept until the device has finished.
pub fn boxed<T: Any + Send>(result: T) -> AnyOutput {
    Box::new(result)
}

/// A call of `forward` on an input.
fn call<const D: usize>(
    x: &Tensor<2>,
    forward: impl Fn(Tensor<2>) -> Tensor<D> + Send + 'static,
) -> Call {
    let x = x.clone();
    Box::new(move || boxed(forward(x.clone())))
}

fn upload<const D: usize>(
    numbers: Vec<f32>,
    dims: [usize; D],
    element: Element,
    device: &Device,
) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers, dims), (device, element.dtype()))
}

/// Rows or columns of a block that are inside the weight.
fn span(block: u32, b: usize, end: usize) -> std::ops::Range<usize> {
    let start = block as usize * b;
    start..end.min(start + b)
}
