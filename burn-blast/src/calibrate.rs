//! One-shot sparsification of a trained layer, from a sample of its inputs.
//!
//! A [`Calibration`] sums up the inputs of a layer. It scores blocks by their effect on the outputs, and gives the best
//! values for the blocks that are kept.
//!
//! The scores follow Wanda ([arXiv 2306.11695](https://arxiv.org/abs/2306.11695)): `|w| · ‖x‖`, as a Frobenius norm
//! over a block. The correction is the least-squares problem behind SparseGPT ([arXiv
//! 2301.00774](https://arxiv.org/abs/2301.00774)), which solves it greedily. With whole blocks removed it separates
//! into one small linear system per block column, which is solved exactly here.
//!
//! ```
//! use burn::tensor::{Device, Distribution, Tensor};
//! use burn_blast::calibrate::Calibration;
//! use burn_blast::BlockSize;
//! use burn_blast::module::{BlockSparseLinear, BlockSparseWeight};
//!
//! let device = Device::flex();
//! let weight = Tensor::<2>::random([64, 96], Distribution::Default, &device);
//! let mut calibration = Calibration::new(64, &device);
//! calibration.add(Tensor::<2>::random([256, 64], Distribution::Default, &device));
//!
//! let pattern = calibration.select(weight.clone(), BlockSize::new(16)?, 0.75);
//! let values = calibration.correct(weight, &pattern, 0.01)?;
//! let layer = BlockSparseLinear::new(BlockSparseWeight::new(values, pattern), None);
//! assert_eq!(layer.sparsity(), 0.75);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::ops::Range;

use burn::tensor::{DType, Device, Tensor, TensorData, s};
use burn_blast_kernels::budget::kept_blocks;
use burn_blast_kernels::{BlockPattern, BlockSize, MatrixShape};
use faer::Mat;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt;
use rayon::prelude::*;

use crate::functions::dense_block_norms;
use crate::ops::packed;

/// The inputs of a layer summed up over all rows: as `xᵀ · x`, or as its diagonal alone.
#[derive(Debug, Clone)]
pub struct Calibration {
    sums: Sums,
    rows: usize,
}

#[derive(Debug, Clone)]
enum Sums {
    /// `[d_input, d_input]`.
    Gram(Tensor<2>),
    /// Of each feature, `[d_input]`.
    Squares(Tensor<1>),
}

/// Why a weight cannot be corrected.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrationError {
    /// No inputs were added.
    #[error("the calibration has no inputs: call `add` with inputs of the layer first")]
    Empty,
    /// Only norms were summed up.
    #[error("the calibration has norms alone: make it by `Calibration::new`")]
    Norms,
    /// Inputs are not finite, or all zero.
    #[error("the inputs of the calibration {what}: they must be finite, and some of them not zero")]
    Inputs {
        /// What is wrong with them.
        what: &'static str,
    },
    /// The damping is not a positive number.
    #[error("the damping must be a positive number such as 0.01, but is {found}")]
    Damping {
        /// The number.
        found: f64,
    },
    /// A system has no unique solution to the precision of the sums.
    #[error(
        "block column {col} cannot be corrected with a damping of {damping}: take a larger one"
    )]
    Singular {
        /// Number of the column.
        col: usize,
        /// The damping asked for.
        damping: f64,
    },
}

impl Calibration {
    /// A calibration without inputs, for a layer of `d_input` features.
    pub fn new(d_input: usize, device: &Device) -> Self {
        let zeros = Tensor::zeros([d_input, d_input], (device, DType::F32));
        Self { sums: Sums::Gram(zeros), rows: 0 }
    }

    /// The same without what [`correct`](Self::correct) needs: it sums up norms alone, at a `d_input`-th of the memory and
    /// the time.
    pub fn of_norms(d_input: usize, device: &Device) -> Self {
        Self { sums: Sums::Squares(Tensor::zeros([d_input], (device, DType::F32))), rows: 0 }
    }

    /// Adds inputs of the layer.
    ///
    /// # Shapes
    /// - `input`: `[.., d_input]`
    ///
    /// # Panics
    /// If the last axis is not `d_input`.
    pub fn add<const D: usize>(&mut self, input: Tensor<D>) {
        let (found, d_input) = (input.dims()[D - 1], self.d_input());
        assert!(
            found == d_input,
            "the inputs have {found} features, but the layer takes {d_input}"
        );
        let rows = input.dims()[..D - 1].iter().product();
        let x = input.detach().reshape([rows, d_input]).cast(DType::F32);
        match &mut self.sums {
            Sums::Gram(gram) => *gram = gram.clone() + x.clone().transpose().matmul(x),
            Sums::Squares(squares) => {
                *squares = squares.clone() + x.square().sum_dim(0).reshape([d_input]);
            }
        }
        self.rows += rows;
    }

    fn d_input(&self) -> usize {
        match &self.sums {
            Sums::Gram(gram) => gram.dims()[0],
            Sums::Squares(squares) => squares.dims()[0],
        }
    }

    /// Rows seen.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Euclidean norm of each input feature over all rows, `[d_input]`.
    pub fn norms(&self) -> Vec<f32> {
        let squares: Vec<f32> = match &self.sums {
            Sums::Gram(gram) => {
                let size = self.d_input();
                let all = gram.clone().reshape([size * size]);
                // The diagonal alone leaves the device.
                all.slice(s![..; size as isize + 1]).to_data().iter().collect()
            }
            Sums::Squares(squares) => squares.to_data().iter().collect(),
        };
        squares.into_iter().map(f32::sqrt).collect()
    }

    /// Score of each block, by block number: the Frobenius norm of the block with its rows scaled by the norms of their
    /// input features.
    ///
    /// # Shapes
    /// - `weight`: `[d_input, d_output]`
    ///
    /// # Panics
    /// If `weight` has another `d_input`.
    pub fn scores(&self, weight: Tensor<2>, block: BlockSize) -> Vec<f32> {
        let norms = TensorData::new(self.norms(), [self.shape_of(&weight).rows(), 1]);
        let norms = Tensor::<2>::from_data(norms, (&weight.device(), DType::F32));
        dense_block_norms(weight.detach().cast(DType::F32) * norms, block)
    }

    /// The pattern of the blocks with the highest [`scores`](Self::scores): exactly the number that `sparsity` leaves,
    /// but at least one. Ties go to the lower block number.
    ///
    /// # Panics
    /// If `weight` has another `d_input`, or `sparsity` is not in `[0, 1]`.
    pub fn select(&self, weight: Tensor<2>, block: BlockSize, sparsity: f64) -> BlockPattern {
        assert!((0.0..=1.0).contains(&sparsity), "sparsity must be in [0, 1], but is {sparsity}");
        let shape = self.shape_of(&weight);
        let scores = self.scores(weight, block);
        BlockPattern::best(shape, block, &scores, kept_blocks(sparsity, scores.len()))
    }

    /// Values of the kept blocks that change the outputs for the calibration inputs least:
    /// `argmin ‖x · w − x · v‖² + λ ‖w − v‖²` over `v` on the pattern, where `λ` is `damping` times the mean square of
    /// an input feature summed over the rows. Solved in f64 on the host, one system of the kept rows for each block
    /// column.
    ///
    /// # Shapes
    /// - `weight`: `[d_input, d_output]`
    /// - output: `[nnz, b, b]`
    ///
    /// # Errors
    /// If no inputs were added or only their norms, they are not finite or all zero, or `damping` is not positive or too small for the
    /// rounding of the sums.
    ///
    /// # Panics
    /// If `weight` has another `d_input` or does not have the pattern's shape.
    pub fn correct(
        &self,
        weight: Tensor<2>,
        pattern: &BlockPattern,
        damping: f64,
    ) -> Result<Tensor<3>, CalibrationError> {
        self.clone().correct_once(weight, pattern, damping)
    }

    /// The same where the calibration is not needed any more, which saves a copy of its sums.
    ///
    /// # Errors
    /// As [`correct`](Self::correct).
    ///
    /// # Panics
    /// As [`correct`](Self::correct).
    pub fn correct_once(
        self,
        weight: Tensor<2>,
        pattern: &BlockPattern,
        damping: f64,
    ) -> Result<Tensor<3>, CalibrationError> {
        assert!(self.shape_of(&weight) == pattern.shape(), "the pattern is of another weight");
        if self.rows == 0 {
            return Err(CalibrationError::Empty);
        }
        let Sums::Gram(gram) = self.sums else { return Err(CalibrationError::Norms) };
        if !(damping > 0.0 && damping.is_finite()) {
            return Err(CalibrationError::Damping { found: damping });
        }
        let (device, dtype) = (weight.device(), weight.dtype());
        let weight = weight.detach().cast(DType::F32);
        let systems = Systems::new(gram, weight, damping)?;
        let mut values = Vec::with_capacity(pattern.value_count());
        let columns: Vec<usize> = (0..pattern.block_cols()).collect();
        // Slots go column by column.
        for some in columns.chunks(at_once(pattern)) {
            let solved: Vec<_> = some.par_iter().map(|&col| systems.solve(pattern, col)).collect();
            for (&col, solved) in some.iter().zip(solved) {
                values.extend(solved.ok_or(CalibrationError::Singular { col, damping })?);
            }
        }
        let values = TensorData::new(values, packed(pattern));
        Ok(Tensor::from_data(values, (&device, dtype)))
    }

    fn shape_of(&self, weight: &Tensor<2>) -> MatrixShape {
        let ([rows, cols], d_input) = (weight.dims(), self.d_input());
        assert!(
            rows == d_input,
            "the weight takes {rows} features, but the calibration saw inputs of {d_input}"
        );
        MatrixShape::new(rows, cols).expect("a weight has a size")
    }
}

/// Block columns that are solved at the same time, so that their systems fit into [`MEMORY`].
fn at_once(pattern: &BlockPattern) -> usize {
    let kept = pattern.col_ptr().windows(2).map(|pair| (pair[1] - pair[0]) as usize);
    let rows = kept.max().unwrap_or(0) * pattern.block().get();
    // Factors take the place of their matrices.
    let bytes = rows * rows * size_of::<f64>();
    (MEMORY / bytes.max(1)).clamp(1, rayon::current_num_threads() * 4)
}

/// Bytes of the systems of the block columns that are solved at the same time. A larger one is solved alone, by all threads.
const MEMORY: usize = 1 << 28;

/// The least-squares problem of every column, on the host. Sums stay in f32: in f64 the sums of a large layer would take
/// more memory than its weights.
struct Systems {
    gram: Matrix,
    weight: Matrix,
    /// `gram · weight`.
    product: Matrix,
    lambda: f64,
}

/// A matrix on the host, row by row.
struct Matrix {
    data: TensorData,
    cols: usize,
}

impl Matrix {
    fn of(tensor: Tensor<2>) -> Self {
        let cols = tensor.dims()[1];
        Self { data: tensor.into_data(), cols }
    }

    fn numbers(&self) -> &[f32] {
        self.data.as_slice().expect("calibrations are in single precision")
    }

    fn at(&self, row: usize, col: usize) -> f64 {
        f64::from(self.numbers()[row * self.cols + col])
    }
}

impl Systems {
    fn new(gram: Tensor<2>, weight: Tensor<2>, damping: f64) -> Result<Self, CalibrationError> {
        let product = Matrix::of(gram.clone().matmul(weight.clone()));
        let (gram, weight) = (Matrix::of(gram), Matrix::of(weight));
        let squares = (0..gram.cols).map(|feature| gram.at(feature, feature));
        let mean = squares.sum::<f64>() / gram.cols as f64;
        if !gram.numbers().iter().all(|number| number.is_finite()) {
            return Err(CalibrationError::Inputs { what: "are not all finite" });
        }
        if mean == 0.0 {
            return Err(CalibrationError::Inputs { what: "are all zero" });
        }
        Ok(Self { gram, weight, product, lambda: damping * mean })
    }

    /// The values of one block column, block by block, if its system has a solution.
    fn solve(&self, pattern: &BlockPattern, col: usize) -> Option<Vec<f32>> {
        let b = pattern.block().get();
        let slots = pattern.col_ptr()[col] as usize..pattern.col_ptr()[col + 1] as usize;
        let inside = |block: usize, end: usize| block * b..end.min((block + 1) * b);
        let cols = inside(col, pattern.shape().cols());
        let blocks = pattern.row_idx()[slots].iter();
        let rows: Vec<Range<usize>> =
            blocks.map(|&row| inside(row as usize, pattern.shape().rows())).collect();
        let mut values = vec![0.0; rows.len() * b * b];
        let kept: Vec<usize> = rows.iter().cloned().flatten().collect();
        if kept.is_empty() {
            return Some(values);
        }
        let (gram, size) = (self.gram.numbers(), self.gram.cols);
        let mut damped = Mat::from_fn(kept.len(), kept.len(), |i, j| {
            f64::from(gram[kept[i] * size + kept[j]]) + if i == j { self.lambda } else { 0.0 }
        });
        let mut right = Mat::from_fn(kept.len(), cols.len(), |i, j| {
            let (row, col) = (kept[i], cols.start + j);
            self.product.at(row, col) + self.lambda * self.weight.at(row, col)
        });
        solve_in_place(&mut damped, &mut right)?;
        let mut next = 0;
        for (block, rows) in values.chunks_exact_mut(b * b).zip(rows) {
            for line in block.chunks_exact_mut(b).take(rows.len()) {
                for (value, solved) in line.iter_mut().zip(right.row(next).iter()) {
                    *value = *solved as f32;
                }
                next += 1;
            }
        }
        Some(values)
    }
}

/// The solution of a positive definite system in the place of its right side, and the factor in the place of the matrix.
fn solve_in_place(matrix: &mut Mat<f64>, right: &mut Mat<f64>) -> Option<()> {
    let threads = faer::get_global_parallelism();
    let needed =
        llt::factor::cholesky_in_place_scratch::<f64>(matrix.nrows(), threads, Default::default());
    let mut memory = MemBuffer::new(needed);
    let stack = MemStack::new(&mut memory);
    let (how, parameters) = (Default::default(), Default::default());
    llt::factor::cholesky_in_place(matrix.as_mut(), how, threads, stack, parameters).ok()?;
    llt::solve::solve_in_place(matrix.as_ref(), right.as_mut(), threads, stack);
    Some(())
}
