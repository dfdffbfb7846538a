//! A linear layer that is dense or block-sparse, whichever its checkpoint holds.

use burn::module::{Module, Param};
use burn::nn;
use burn::tensor::{DType, Tensor};
use burn_blast::{BlockSparseLinear, PatternError};

/// `y = x · w + b`.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a few hundred values, each in its layer")]
pub enum Linear {
    /// Every weight.
    Dense(nn::Linear),
    /// The kept blocks only.
    Sparse(BlockSparseLinear),
}

impl Linear {
    /// Applies the layer.
    ///
    /// # Shapes
    /// - `input`: `[.., d_input]`
    /// - output: `[.., d_output]`
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Dense(layer) => layer.forward(input),
            Self::Sparse(layer) => layer.forward(input),
        }
    }

    /// Makes a dense layer block-sparse: blocks that hold anything but zeros are kept. A block-sparse one stays.
    ///
    /// # Errors
    /// If the block size is not supported.
    pub fn pack(&mut self, block: usize) -> Result<(), PatternError> {
        if let Self::Dense(layer) = self {
            *self = Self::Sparse(BlockSparseLinear::from_linear(layer, block)?);
        }
        Ok(())
    }

    /// Share of blocks removed, in `[0, 1]`; 0 for a dense layer.
    pub fn sparsity(&self) -> f64 {
        match self {
            Self::Dense(_) => 0.0,
            Self::Sparse(layer) => layer.sparsity(),
        }
    }

    /// Bytes of the weight; with indices where it is block-sparse.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Dense(_) => self.shape().iter().product::<usize>() * self.dtype().size(),
            Self::Sparse(layer) => layer.bytes(),
        }
    }

    /// `d_input` and `d_output`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(layer) => layer.weight.val().dims(),
            Self::Sparse(layer) => {
                let shape = layer.pattern().shape();
                [shape.rows(), shape.cols()]
            }
        }
    }

    /// The dense weight, zero where no block is kept.
    ///
    /// # Shapes
    /// - output: `[d_input, d_output]`
    pub fn to_dense(&self) -> Tensor<2> {
        match self {
            Self::Dense(layer) => layer.weight.val(),
            Self::Sparse(layer) => layer.to_dense(),
        }
    }

    /// Bias of `[d_output]`, if the layer has one.
    pub fn bias(&self) -> Option<Param<Tensor<1>>> {
        match self {
            Self::Dense(layer) => layer.bias.clone(),
            Self::Sparse(layer) => layer.bias.clone(),
        }
    }

    /// Precision of the weight.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Dense(layer) => layer.weight.val().dtype(),
            Self::Sparse(layer) => layer.weight.dtype(),
        }
    }

    pub(crate) fn as_sparse(&self) -> Option<&BlockSparseLinear> {
        match self {
            Self::Dense(_) => None,
            Self::Sparse(layer) => Some(layer),
        }
    }
}
