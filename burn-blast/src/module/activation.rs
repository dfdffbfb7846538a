//! Activations of the feed-forward blocks.

use burn::tensor::Tensor;
use burn::tensor::activation::{gelu, relu, silu};
use burn_blast_kernels::Activation;
use serde::{Deserialize, Serialize};

/// Activation of a feed-forward block. All of them are zero at zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MlpActivation {
    /// Gaussian error linear unit, by the error function; of a gated block, GeGLU.
    Gelu,
    /// Rectified linear unit; of a gated block, ReGLU.
    Relu,
    /// `x · sigmoid(x)`, also called swish; of a gated block, SwiGLU.
    Silu,
}

impl MlpActivation {
    pub(super) fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            MlpActivation::Gelu => gelu(x),
            MlpActivation::Relu => relu(x),
            MlpActivation::Silu => silu(x),
        }
    }
}

/// The same function in kernels.
impl From<MlpActivation> for Activation {
    fn from(activation: MlpActivation) -> Self {
        match activation {
            MlpActivation::Gelu => Activation::Gelu,
            MlpActivation::Relu => Activation::Relu,
            MlpActivation::Silu => Activation::Silu,
        }
    }
}
