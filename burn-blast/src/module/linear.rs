//! The block-sparse twin of [`nn::Linear`](burn::nn::Linear).

use burn::config::Config;
use burn::module::{Content, DisplaySettings, Module, ModuleDisplay, Param};
use burn::nn::{Initializer, Linear};
use burn::tensor::module::linear;
use burn::tensor::{DType, Device, Int, Tensor};
use burn_blast_kernels::cpu::bf16_allowed;
use burn_blast_kernels::{
    BlockPattern, BlockSize, MatrixShape, PathChoice, PathReason, PatternError, ProductPath,
    Strategy,
};

use crate::backends::{Kernel, device_class, is_host};
use crate::break_even::TuningTable;
use crate::error::LayerError;
use crate::functions::{by_rows, spmm, spmm_probed};
use crate::weight::BlockSparseWeight;

/// Configuration of a [`BlockSparseLinear`].
#[derive(Config, Debug)]
pub struct BlockSparseLinearConfig {
    /// Size of the input features.
    pub d_input: usize,
    /// Size of the output features.
    pub d_output: usize,
    /// Side of a block: 8, 16, 32, 64 or 128.
    #[config(default = 32)]
    pub block_size: usize,
    /// Share of blocks that are absent at the start, in `[0, 1]`. The default 0 starts dense.
    #[config(default = 0.0)]
    pub sparsity: f64,
    /// Seed that selects the kept blocks if `sparsity` is above 0.
    #[config(default = 0)]
    pub seed: u64,
    /// Whether a bias is added.
    #[config(default = true)]
    pub bias: bool,
    /// Initializer of weight and bias.
    #[config(
        default = "Initializer::KaimingUniform { gain: 1.0 / f64::sqrt(3.0), fan_out_only: false }"
    )]
    pub initializer: Initializer,
}

impl BlockSparseLinearConfig {
    /// Initialises a layer.
    ///
    /// # Panics
    /// If a size, the block size or the sparsity is not valid; [`try_init`](Self::try_init) returns the
    /// error instead.
    pub fn init(&self, device: &Device) -> BlockSparseLinear {
        self.try_init(device).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Initialises a layer as [`nn::Linear`](burn::nn::Linear) is initialised. If it starts sparse, the fan-in counts
    /// the kept inputs only, so that outputs keep their scale.
    ///
    /// # Errors
    /// If a size, the block size or the sparsity is not valid.
    pub fn try_init(&self, device: &Device) -> Result<BlockSparseLinear, LayerError> {
        let shape = MatrixShape::new(self.d_input, self.d_output)?;
        let block = BlockSize::new(self.block_size)?;
        if !(0.0..=1.0).contains(&self.sparsity) {
            return Err(LayerError::Sparsity { found: self.sparsity });
        }
        let pattern = BlockPattern::random(shape, block, 1.0 - self.sparsity, self.seed);
        let fan_in = ((self.d_input as f64 * pattern.density()).round() as usize).max(1);
        let dims = [self.d_input, self.d_output];
        let dense: Param<Tensor<2>> =
            self.initializer.init_with(dims, Some(fan_in), Some(self.d_output), device);
        let bias = self.bias.then(|| {
            self.initializer.init_with(
                [self.d_output],
                Some(self.d_input),
                Some(self.d_output),
                device,
            )
        });
        let weight = BlockSparseWeight::from_dense(dense.val(), pattern);
        Ok(BlockSparseLinear { weight, bias, strategy: Strategy::Auto })
    }
}

/// A linear layer that stores and multiplies by the kept blocks of its weight only.
///
/// `y = x · w + b`, with `w` of `[d_input, d_output]` divided into blocks. Storage is packed in training, in files and
/// in inference. [`Blast`](crate::prune::Blast) changes which blocks are kept.
///
/// # Example
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_blast::module::BlockSparseLinearConfig;
///
/// let device = Device::flex();
/// let layer = BlockSparseLinearConfig::new(64, 128).with_sparsity(0.75).init(&device);
/// let y = layer.forward(Tensor::<3>::ones([2, 5, 64], &device));
/// assert_eq!(y.dims(), [2, 5, 128]);
/// assert_eq!(layer.sparsity(), 0.75);
/// ```
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct BlockSparseLinear {
    /// The kept blocks of `[d_input, d_output]`.
    pub weight: BlockSparseWeight,
    /// Bias of `[d_output]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    pub(super) strategy: Strategy,
}

impl BlockSparseLinear {
    /// A layer of given parts.
    ///
    /// # Panics
    /// If the bias is not `[d_output]`.
    pub fn new(weight: BlockSparseWeight, bias: Option<Param<Tensor<1>>>) -> Self {
        if let Some(bias) = &bias {
            let (found, expected) = (bias.lazy_shape()[0], weight.pattern().shape().cols());
            assert!(found == expected, "the bias has {found} elements, but d_output is {expected}");
        }
        Self { weight, bias, strategy: Strategy::Auto }
    }

    /// Packs the blocks of a dense layer that hold anything but zeros.
    ///
    /// # Errors
    /// If the block size is not supported.
    pub fn from_linear(linear: &Linear, block_size: usize) -> Result<Self, PatternError> {
        let weight = BlockSparseWeight::from_nonzero_blocks(linear.weight.val(), block_size)?;
        Ok(Self::new(weight, linear.bias.clone()))
    }

    /// A layer without bias of the kept blocks of a dense weight.
    ///
    /// # Shapes
    /// - `dense`: `[d_input, d_output]`
    ///
    /// # Panics
    /// If `dense` does not have the pattern's shape.
    pub fn from_dense(dense: Tensor<2>, pattern: BlockPattern) -> Self {
        Self::new(BlockSparseWeight::from_dense(dense, pattern), None)
    }

    /// The dense weight, zero where no block is kept.
    ///
    /// # Shapes
    /// - output: `[d_input, d_output]`
    pub fn to_dense(&self) -> Tensor<2> {
        self.weight.to_dense()
    }

    /// The dense layer that computes the same function.
    pub fn into_linear(self) -> Linear {
        let weight = Param::from_tensor(self.to_dense().detach());
        Linear { weight, bias: self.bias }
    }

    /// The layer restricted to some of its block rows and block columns, in their order. Its parameters have new ids and
    /// are trainable.
    ///
    /// # Panics
    /// If a list has another length, or nothing is left of a side.
    pub fn submatrix(&self, rows: &[bool], cols: &[bool]) -> Self {
        let found = (rows.len(), cols.len());
        let grid = (self.pattern().block_rows(), self.pattern().block_cols());
        assert!(
            found == grid,
            "a submatrix is chosen by {grid:?} block rows and columns, not {found:?}"
        );
        let b = self.pattern().block().get();
        let bias = self.bias.as_ref().map(|bias| {
            let bias = bias.val().detach();
            let kept = (0..bias.dims()[0]).map(|at| cols[at / b]).collect::<Vec<_>>();
            Param::from_tensor(take(bias, 0, &kept))
        });
        Self::new(self.weight.submatrix(rows, cols), bias).with_strategy(self.strategy)
    }

    /// Sets how the layer chooses between sparse and dense products. The default is [`Strategy::Auto`].
    pub fn with_strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Share of blocks removed, in `[0, 1]`.
    pub fn sparsity(&self) -> f64 {
        self.weight.sparsity()
    }

    /// Which blocks are kept.
    pub fn pattern(&self) -> &BlockPattern {
        self.weight.pattern()
    }

    /// Bytes of the weight: packed values and indices.
    pub fn bytes(&self) -> usize {
        self.weight.bytes()
    }

    /// Which product an input of `rows` rows takes, and why. Only the sparse product reads quantised values, so `Auto`
    /// takes it for a quantised layer.
    pub fn path(&self, rows: usize) -> PathChoice {
        let (pattern, device) = (self.pattern(), self.weight.device());
        if self.weight.is_quantized() {
            return self.strategy.choose_by(pattern, rows, || PathReason::Quantized);
        }
        let dtype = self.weight.float_dtype();
        let measured = |table: &TuningTable| table.reason(pattern, dtype, rows);
        match self.weight.tuning().and_then(measured) {
            Some(reason) => self.strategy.choose_by(pattern, rows, || reason),
            None => self.strategy.choose(pattern, device_class(&device, dtype), rows),
        }
    }

    /// What computes the product with an input of `rows` rows: the dense product of Burn, if the layer takes it, or the
    /// block-sparse kernel that the device selects.
    pub fn kernel(&self, rows: usize) -> Kernel {
        if self.path(rows).path == ProductPath::Dense {
            return Kernel::Dense;
        }
        let (weight, int8) = (&self.weight, self.weight.is_quantized());
        Kernel::sparse(&weight.device(), self.pattern(), weight.float_dtype(), int8, rows)
    }

    /// Applies the layer.
    ///
    /// # Shapes
    /// - `input`: `[.., d_input]`
    /// - output: `[.., d_output]`
    ///
    /// # Panics
    /// If the last axis of `input` is not `d_input`.
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(Param::val);
        let (rows, shape) = (input.dims()[..D - 1].iter().product(), self.pattern().shape());
        let path = self.path_of(&input, rows);
        by_rows(input, shape.rows(), shape.cols(), |rows| match path {
            ProductPath::Sparse => self.sparse_product(rows, bias),
            ProductPath::Dense => linear(rows, self.to_dense(), bias),
        })
    }

    /// The product with the packed values, `[m, d_output]` for rows of `[m, d_input]`.
    fn sparse_product(&self, rows: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        let (values, pattern) = (self.weight.values(), self.pattern());
        match self.weight.probe() {
            Some(probe) if rows.device().is_autodiff() => {
                let y = spmm_probed(rows, values, probe, pattern);
                match bias {
                    Some(bias) => y + bias.unsqueeze(),
                    None => y,
                }
            }
            _ => spmm(rows, values, bias, pattern),
        }
    }

    /// The path of this input, which has `rows` rows.
    pub(crate) fn path_of<const D: usize>(&self, input: &Tensor<D>, rows: usize) -> ProductPath {
        // Only the sparse product gives a probe its gradient.
        if self.is_probed(input) { ProductPath::Sparse } else { self.path(rows).path }
    }

    /// Whether the backward pass of this input gives gradient norms.
    pub(crate) fn is_probed<const D: usize>(&self, input: &Tensor<D>) -> bool {
        self.weight.probe().is_some() && input.device().is_autodiff()
    }
}

/// Whether the products of a feed-forward block can be one operation: all of them are sparse, have one block size, and
/// are neither quantised nor probed. On a CPU single products are better for a single row in bf16, and in f32 where its factors
/// would be rounded.
pub(super) fn fuses_products<const D: usize>(
    layers: &[&BlockSparseLinear],
    input: &Tensor<D>,
) -> bool {
    let rows = input.dims()[..D - 1].iter().product();
    let block = layers[0].pattern().block();
    let is_bf16 = input.dtype() == DType::BF16;
    let apart = rows == 1 && (is_bf16 || bf16_allowed());
    !(is_host(&input.device()) && apart)
        && layers.iter().all(|layer| {
            !layer.weight.is_quantized()
                && layer.pattern().block() == block
                && layer.path_of(input, rows) == ProductPath::Sparse
                && !layer.is_probed(input)
        })
}

/// The features that are kept.
pub(super) fn take<const D: usize>(tensor: Tensor<D>, axis: usize, kept: &[bool]) -> Tensor<D> {
    let indices = kept.iter().enumerate().filter(|(_, kept)| **kept).map(|(at, _)| at as i32);
    let indices: Vec<i32> = indices.collect();
    let indices = Tensor::<1, Int>::from_data(indices.as_slice(), &tensor.device());
    tensor.detach().select(axis, indices)
}

impl ModuleDisplay for BlockSparseLinear {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let pattern = self.pattern();
        content
            .add("d_input", &pattern.shape().rows())
            .add("d_output", &pattern.shape().cols())
            .add("bias", &self.bias.is_some())
            .add("block", &pattern.block().get())
            .add("kept", &pattern.nnz())
            .add("blocks", &pattern.block_count())
            .optional()
    }
}
