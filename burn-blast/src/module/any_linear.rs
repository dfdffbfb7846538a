//! A linear layer that is dense, block-sparse, or block-sparse with an adapter.

use burn::module::{Module, Param};
use burn::nn;
use burn::tensor::{DType, Tensor};

use super::linear::take;
use super::{BlockSparseLinear, LayerError, LoraLinear, LoraLinearConfig};

/// `y = x · w + b`, with a weight that is stored in one of three ways.
///
/// A model made of these layers loads dense and packed checkpoints alike, and is pruned, adapted, merged and compacted
/// without another type.
///
/// # Example
/// ```
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
/// use burn_blast::module::AnyLinear;
///
/// let device = Device::flex();
/// let mut layer = AnyLinear::Dense(LinearConfig::new(32, 48).init(&device));
/// layer.pack(16)?;
/// assert_eq!((layer.shape(), layer.block_size(), layer.sparsity()), ([32, 48], Some(16), 0.0));
/// assert_eq!(layer.forward(Tensor::<2>::ones([1, 32], &device)).dims(), [1, 48]);
/// # Ok::<(), burn_blast::module::LayerError>(())
/// ```
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a few hundred values, each in its layer")]
pub enum AnyLinear {
    /// Every weight.
    Dense(nn::Linear),
    /// The kept blocks only.
    Sparse(BlockSparseLinear),
    /// The kept blocks, frozen, and a low-rank adapter beside them.
    Adapted(LoraLinear),
}

impl AnyLinear {
    /// Applies the layer.
    ///
    /// # Shapes
    /// - `input`: `[.., d_input]`
    /// - output: `[.., d_output]`
    ///
    /// # Panics
    /// If the last axis of `input` is not `d_input`.
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Dense(layer) => layer.forward(input),
            Self::Sparse(layer) => layer.forward(input),
            Self::Adapted(layer) => layer.forward(input),
        }
    }

    /// Makes a dense layer block-sparse: blocks that hold anything but zeros are kept. A layer that has such blocks
    /// already is left as it is.
    ///
    /// # Errors
    /// If the block size is not supported, or the layer has another one.
    pub fn pack(&mut self, block_size: usize) -> Result<(), LayerError> {
        match (&*self, self.block_size()) {
            (Self::Dense(layer), _) => {
                *self = Self::Sparse(BlockSparseLinear::from_linear(layer, block_size)?);
            }
            (_, Some(found)) if found != block_size => {
                return Err(LayerError::OtherBlocks { found, asked: block_size });
            }
            _ => {}
        }
        Ok(())
    }

    /// Freezes a block-sparse layer and adds an adapter to it. Returns whether the layer was block-sparse; others are
    /// left as they are.
    ///
    /// # Panics
    /// If the rank is 0.
    pub fn adapt(&mut self, config: &LoraLinearConfig) -> bool {
        let Self::Sparse(layer) = self else { return false };
        *self = Self::Adapted(config.init(layer.clone()));
        true
    }

    /// Share of blocks removed, in `[0, 1]`; 0 for a dense layer.
    pub fn sparsity(&self) -> f64 {
        self.as_sparse().map_or(0.0, BlockSparseLinear::sparsity)
    }

    /// Bytes of the weight, with the indices of a block-sparse one and the factors of an adapter.
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

    /// `[d_input, d_output]`.
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

    /// The bias, if the layer has one.
    ///
    /// # Shapes
    /// - output: `[d_output]`
    pub fn bias(&self) -> Option<Param<Tensor<1>>> {
        match self {
            Self::Dense(layer) => layer.bias.clone(),
            Self::Sparse(layer) => layer.bias.clone(),
            Self::Adapted(layer) => layer.base.bias.clone(),
        }
    }

    /// Side of a block, if the layer is block-sparse.
    pub fn block_size(&self) -> Option<usize> {
        self.as_sparse().map(|layer| layer.pattern().block().get())
    }

    /// Which input features are read: their row of the weight holds anything but zeros.
    #[doc(hidden)]
    pub fn reads(&self) -> Vec<bool> {
        any(self.to_dense(), 1)
    }

    /// Which output features can differ from zero: their column of the weight or their bias does.
    #[doc(hidden)]
    pub fn writes(&self) -> Vec<bool> {
        let mut features = any(self.to_dense(), 0);
        if let Some(bias) = self.bias() {
            let bias = any(bias.val().unsqueeze_dim::<2>(0), 0);
            features.iter_mut().zip(bias).for_each(|(feature, bias)| *feature |= bias);
        }
        features
    }

    /// The layer restricted to some of its input and output features, which keep their order. Blocks of a block-sparse
    /// layer are kept whole. The layer is new: its parameters have new ids.
    ///
    /// # Panics
    /// If a list has another length, or no features are left on a side.
    #[doc(hidden)]
    pub fn submatrix(&self, inputs: &[bool], outputs: &[bool]) -> Self {
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

    /// Data type of the weight.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Dense(layer) => layer.weight.val().dtype(),
            Self::Sparse(layer) => layer.weight.dtype(),
            Self::Adapted(layer) => layer.base.weight.dtype(),
        }
    }

    /// The block-sparse layer, without the adapter.
    pub fn as_sparse(&self) -> Option<&BlockSparseLinear> {
        match self {
            Self::Dense(_) => None,
            Self::Sparse(layer) => Some(layer),
            Self::Adapted(layer) => Some(&layer.base),
        }
    }
}

/// Which hidden features between layers are alive; `None` if all are. At least one block of them always is.
///
/// A feature is alive if `out` reads it and every layer of `into` can make it differ from zero. The activation must be
/// zero at zero. Blocks of block-sparse layers are alive as a whole. Without dead features all layers are smaller and
/// give the same outputs.
///
/// # Panics
/// If the layers do not fit each other.
#[doc(hidden)]
pub fn live_features(into: &[&AnyLinear], out: &AnyLinear) -> Option<Vec<bool>> {
    let mut alive = out.reads();
    for layer in into {
        let writes = layer.writes();
        assert!(writes.len() == alive.len(), "{} features into {}", writes.len(), alive.len());
        alive.iter_mut().zip(writes).for_each(|(alive, writes)| *alive &= writes);
    }
    // Block sizes are powers of two, so whole blocks of the largest are whole blocks of all.
    let sizes = into.iter().copied().chain([out]).filter_map(AnyLinear::block_size);
    let largest = sizes.max().unwrap_or(1);
    for block in alive.chunks_mut(largest) {
        let any = block.contains(&true);
        block.fill(any);
    }
    if !alive.contains(&true) {
        alive.iter_mut().take(largest).for_each(|first| *first = true);
    }
    alive.contains(&false).then_some(alive)
}

/// Which slices along the other axis hold anything but zeros. NaN counts as content.
fn any(matrix: Tensor<2>, axis: usize) -> Vec<bool> {
    let marks = matrix.not_equal_scalar(0.0).any_dim(axis).into_data();
    marks.iter::<bool>().collect()
}

/// The layer restricted to whole blocks of features: a block is kept if any of its features is.
pub(super) fn whole_blocks(
    layer: &BlockSparseLinear,
    inputs: &[bool],
    outputs: &[bool],
) -> BlockSparseLinear {
    let block = layer.pattern().block().get();
    let blocks = |features: &[bool]| -> Vec<bool> {
        features.chunks(block).map(|block| block.contains(&true)).collect()
    };
    layer.submatrix(&blocks(inputs), &blocks(outputs))
}
