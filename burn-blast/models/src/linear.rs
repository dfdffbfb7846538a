//! A linear layer that is dense or block-sparse, with or without an adapter, whichever its checkpoint holds.

use burn::module::{Module, Param};
use burn::nn;
use burn::tensor::{DType, Int, Tensor};
use burn_blast::{BlockSparseLinear, LoraLinear, LoraLinearConfig, PatternError};

/// `y = x · w + b`.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a few hundred values, each in its layer")]
pub enum Linear {
    /// Every weight.
    Dense(nn::Linear),
    /// The kept blocks only.
    Sparse(BlockSparseLinear),
    /// The kept blocks, frozen, and a low-rank adapter beside them.
    Adapted(LoraLinear),
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
            Self::Adapted(layer) => layer.forward(input),
        }
    }

    /// Makes a dense layer block-sparse: blocks that hold anything but zeros are kept. Other layers stay.
    ///
    /// # Errors
    /// If the block size is not supported.
    pub fn pack(&mut self, block: usize) -> Result<(), PatternError> {
        if let Self::Dense(layer) = self {
            *self = Self::Sparse(BlockSparseLinear::from_linear(layer, block)?);
        }
        Ok(())
    }

    /// Freezes a block-sparse layer and puts an adapter beside it; says whether the layer was one.
    pub fn adapt(&mut self, config: &LoraLinearConfig) -> bool {
        let Self::Sparse(layer) = self else { return false };
        *self = Self::Adapted(config.init(layer.clone()));
        true
    }

    /// Share of blocks removed, in `[0, 1]`; 0 for a dense layer.
    pub fn sparsity(&self) -> f64 {
        self.as_sparse().map_or(0.0, BlockSparseLinear::sparsity)
    }

    /// Bytes of the weight; with indices where it is block-sparse, and with the factors of an adapter.
    pub fn bytes(&self) -> usize {
        let numbers = match self {
            Self::Dense(_) => self.shape().iter().product::<usize>() * self.dtype().size(),
            Self::Sparse(_) => 0,
            Self::Adapted(layer) => {
                let numbers = layer.rank() * self.shape().iter().sum::<usize>();
                numbers * layer.lora_a.val().dtype().size()
            }
        };
        numbers + self.as_sparse().map_or(0, BlockSparseLinear::bytes)
    }

    /// `d_input` and `d_output`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(layer) => layer.weight.val().dims(),
            Self::Sparse(BlockSparseLinear { weight, .. })
            | Self::Adapted(LoraLinear { base: BlockSparseLinear { weight, .. }, .. }) => {
                let shape = weight.pattern().shape();
                [shape.rows(), shape.cols()]
            }
        }
    }

    /// The dense weight, zero where no block is kept, the adapter merged.
    ///
    /// # Shapes
    /// - output: `[d_input, d_output]`
    pub fn to_dense(&self) -> Tensor<2> {
        match self {
            Self::Dense(layer) => layer.weight.val(),
            Self::Sparse(layer) => layer.to_dense(),
            Self::Adapted(layer) => layer.base.to_dense() + layer.change(),
        }
    }

    /// Bias of `[d_output]`, if the layer has one.
    pub fn bias(&self) -> Option<Param<Tensor<1>>> {
        match self {
            Self::Dense(layer) => layer.bias.clone(),
            Self::Sparse(layer) => layer.bias.clone(),
            Self::Adapted(layer) => layer.base.bias.clone(),
        }
    }

    /// Side of a block, if the layer is block-sparse.
    pub fn block(&self) -> Option<usize> {
        self.as_sparse().map(|layer| layer.pattern().block().get())
    }

    /// Which input features are read: those whose row of the weight holds anything but zeros.
    pub(crate) fn reads(&self) -> Vec<bool> {
        any(self.to_dense(), 1)
    }

    /// Which output features can differ from zero: those whose column or bias does.
    pub(crate) fn gives(&self) -> Vec<bool> {
        let weight = any(self.to_dense(), 0);
        match self.bias() {
            Some(bias) => {
                let bias = any(bias.val().unsqueeze_dim::<2>(0), 0);
                weight.into_iter().zip(bias).map(|(weight, bias)| weight || bias).collect()
            }
            None => weight,
        }
    }

    /// The layer between some of its input and output features. Of a block-sparse one, blocks stay whole.
    pub(crate) fn part(&self, inputs: &[bool], outputs: &[bool]) -> Self {
        match self {
            Self::Dense(layer) => {
                let weight = take(take(layer.weight.val(), 0, inputs), 1, outputs);
                let bias = |bias: &Param<Tensor<1>>| take(bias.val(), 0, outputs);
                Self::Dense(nn::Linear {
                    weight: Param::from_tensor(weight),
                    bias: layer.bias.as_ref().map(bias).map(Param::from_tensor),
                })
            }
            Self::Sparse(layer) => Self::Sparse(whole_blocks(layer, inputs, outputs)),
            Self::Adapted(layer) => Self::Adapted(LoraLinear::new(
                whole_blocks(&layer.base, inputs, outputs),
                take(layer.lora_a.val(), 0, inputs),
                take(layer.lora_b.val(), 1, outputs),
                layer.lora_scale.val().detach(),
            )),
        }
    }

    /// Precision of the weight.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Dense(layer) => layer.weight.val().dtype(),
            Self::Sparse(layer) => layer.weight.dtype(),
            Self::Adapted(layer) => layer.base.weight.dtype(),
        }
    }

    /// The block-sparse layer, without what an adapter beside it does.
    pub fn as_sparse(&self) -> Option<&BlockSparseLinear> {
        match self {
            Self::Dense(_) => None,
            Self::Sparse(layer) => Some(layer),
            Self::Adapted(layer) => Some(&layer.base),
        }
    }
}

/// Which slices along the other axis hold anything but zeros; not a number counts as content.
fn any(matrix: Tensor<2>, axis: usize) -> Vec<bool> {
    let marks = matrix.not_equal_scalar(0.0).any_dim(axis).into_data();
    marks.iter::<bool>().collect()
}

/// The features that stay.
fn take<const D: usize>(tensor: Tensor<D>, axis: usize, stays: &[bool]) -> Tensor<D> {
    let places = stays.iter().enumerate().filter(|(_, stays)| **stays).map(|(at, _)| at as i32);
    let places: Vec<i32> = places.collect();
    let places = Tensor::<1, Int>::from_data(places.as_slice(), &tensor.device());
    tensor.detach().select(axis, places)
}

/// The layer between whole blocks of features.
fn whole_blocks(layer: &BlockSparseLinear, inputs: &[bool], outputs: &[bool]) -> BlockSparseLinear {
    let block = layer.pattern().block().get();
    let blocks = |features: &[bool]| -> Vec<bool> {
        features.chunks(block).map(|block| block.contains(&true)).collect()
    };
    layer.part(&blocks(inputs), &blocks(outputs))
}
