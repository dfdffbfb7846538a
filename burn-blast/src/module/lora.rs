//! Low-rank adapters beside frozen block-sparse layers.
//!
//! LoRA (Hu et al., arXiv 2106.09685) learns the change of a weight as a product of two thin matrices. Burn's own
//! [`Lora`](burn::module::Lora) adds that product to the dense weight; a block-sparse weight has no dense form to add
//! it to, so here the adapter is a second path beside the layer, and the kept blocks stay as they are.

use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{DType, Distribution, Tensor};
use burn_blast_kernels::BlockMask;

use super::BlockSparseLinear;
use crate::error::LayerError;
use crate::functions::{by_rows, dense_block_norms, pack};
use crate::weight::BlockSparseWeight;

/// Configuration of a [`LoraLinear`].
#[derive(Config, Debug)]
pub struct LoraLinearConfig {
    /// Columns of the first factor and rows of the second.
    pub rank: usize,
    /// The adapter's output is multiplied by `alpha / rank`.
    #[config(default = 16.0)]
    pub alpha: f64,
}

impl LoraLinearConfig {
    /// Freezes a layer and puts an adapter beside it that changes nothing yet: the second factor is zero, the first
    /// is normally distributed with standard deviation `1 / rank`, as in Burn's own adapter.
    ///
    /// # Panics
    /// If the rank is 0.
    pub fn init(&self, base: BlockSparseLinear) -> LoraLinear {
        assert!(self.rank > 0, "the rank of an adapter must be at least 1");
        let shape = base.pattern().shape();
        let (device, dtype) = (base.weight.device(), base.weight.float_dtype());
        let normal = Distribution::Normal(0.0, 1.0 / self.rank as f64);
        let a = Tensor::<2>::random([shape.rows(), self.rank], normal, &device).cast(dtype);
        let b = Tensor::zeros([self.rank, shape.cols()], (&device, dtype));
        let scale = Tensor::from_data([self.alpha / self.rank as f64], (&device, DType::F32));
        LoraLinear::new(base, a, b, scale)
    }
}

/// `y = base(x) + scale · (x · a) · b`: a frozen block-sparse layer and an adapter that learns.
///
/// Gradients go to `lora_a` and `lora_b` only. All parts are recorded, so [`io`](crate::io) saves and loads it.
///
/// # Example
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_blast::module::{BlockSparseLinearConfig, LoraLinearConfig};
///
/// let device = Device::flex();
/// let base = BlockSparseLinearConfig::new(64, 128).with_sparsity(0.75).init(&device);
/// let layer = LoraLinearConfig::new(4).init(base.clone());
/// let x = Tensor::<2>::ones([3, 64], &device);
/// // An adapter starts as nothing.
/// assert_eq!(layer.forward(x.clone()).into_data(), base.forward(x).into_data());
/// ```
#[derive(Module, Debug)]
pub struct LoraLinear {
    /// The frozen layer.
    pub base: BlockSparseLinear,
    /// First factor, `[d_input, rank]`.
    pub lora_a: Param<Tensor<2>>,
    /// Second factor, `[rank, d_output]`.
    pub lora_b: Param<Tensor<2>>,
    /// `alpha / rank`, `[1]`; frozen, and recorded so that files need no other place for it.
    pub lora_scale: Param<Tensor<1>>,
}

impl LoraLinear {
    /// A layer of given parts, `base` and `scale` frozen.
    ///
    /// # Shapes
    /// - `a`: `[d_input, rank]`, `b`: `[rank, d_output]`, `scale`: `[1]`
    ///
    /// # Panics
    /// If they do not fit each other.
    pub fn new(base: BlockSparseLinear, a: Tensor<2>, b: Tensor<2>, scale: Tensor<1>) -> Self {
        let (shape, [d_input, rank], [rows, d_output]) =
            (base.pattern().shape(), a.dims(), b.dims());
        assert!(
            rank == rows && [d_input, d_output] == [shape.rows(), shape.cols()],
            "factors of {:?} and {:?} do not make a weight of {:?}",
            a.dims(),
            b.dims(),
            [shape.rows(), shape.cols()]
        );
        assert!(scale.dims() == [1], "the scale is one number, not {:?}", scale.dims());
        Self {
            base: base.set_require_grad(false),
            lora_a: Param::from_tensor(a),
            lora_b: Param::from_tensor(b),
            lora_scale: Param::from_tensor(scale).set_require_grad(false),
        }
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
        let shape = self.base.pattern().shape();
        let change = by_rows(input.clone(), shape.rows(), shape.cols(), |rows| {
            let (a, scale) = (self.lora_a.val(), self.lora_scale.val());
            let scale = scale.cast(a.dtype()).unsqueeze();
            rows.matmul(a).matmul(self.lora_b.val()) * scale
        });
        self.base.forward(input) + change
    }

    /// Columns of the first factor.
    pub fn rank(&self) -> usize {
        self.lora_a.lazy_shape()[1]
    }

    /// What the adapter adds to the weight, dense.
    ///
    /// # Shapes
    /// - output: `[d_input, d_output]`
    pub fn change(&self) -> Tensor<2> {
        lora_change(self.lora_a.val(), self.lora_b.val(), self.lora_scale.val())
    }

    /// The dense layer of the same function, all of it trainable again.
    pub fn into_linear(self) -> Linear {
        let weight = (self.base.to_dense() + self.change()).detach();
        Linear { weight: Param::from_tensor(weight), bias: trainable(self.base.bias) }
    }

    /// The block-sparse layer of the same function, all of it trainable again.
    ///
    /// # Errors
    /// If the weight does not keep every block: an adapter changes all of them, and what has no block would be lost.
    pub fn merge_exact(self) -> Result<BlockSparseLinear, LayerError> {
        let pattern = self.base.pattern();
        let (kept, blocks) = (pattern.nnz(), pattern.block_count());
        if kept < blocks {
            return Err(LayerError::OutsidePattern { blocks, kept });
        }
        Ok(self.merge_within().0)
    }

    /// The block-sparse layer with as much of the change as its blocks can take, and the share of the change, by its
    /// squares, that is lost: about the sparsity of the layer unless the adapter was made for its pattern.
    pub fn merge_within(self) -> (BlockSparseLinear, f64) {
        let (pattern, change) = (self.base.pattern().clone(), self.change().detach());
        let kept = BlockMask::from(&pattern);
        let (mut inside, mut all) = (0.0, 0.0);
        for (at, norm) in dense_block_norms(change.clone(), pattern.block()).into_iter().enumerate()
        {
            let square = f64::from(norm) * f64::from(norm);
            all += square;
            if kept.get(at / pattern.block_cols(), at % pattern.block_cols()) {
                inside += square;
            }
        }
        let values = self.base.weight.float_values().detach() + pack(change, &pattern);
        let weight = BlockSparseWeight::new(values, pattern);
        let lost = if all > 0.0 { 1.0 - inside / all } else { 0.0 };
        let layer = BlockSparseLinear::new(weight, trainable(self.base.bias));
        (layer.with_strategy(self.base.strategy), lost)
    }
}

/// What an adapter of these parts adds to the weight.
pub(crate) fn lora_change(a: Tensor<2>, b: Tensor<2>, scale: Tensor<1>) -> Tensor<2> {
    let scale = scale.cast(a.dtype()).unsqueeze();
    a.matmul(b) * scale
}

/// A bias that was frozen beside an adapter.
fn trainable(bias: Option<Param<Tensor<1>>>) -> Option<Param<Tensor<1>>> {
    bias.map(|bias| bias.set_require_grad(true))
}
