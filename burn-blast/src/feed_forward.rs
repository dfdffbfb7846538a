//! Non-tensor arguments of the feed-forward operations: patterns and activation. And the activation on the primitive
//! tensors of a backend.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Tensor;
use burn::tensor::activation::{gelu, relu, silu};
use burn_blast_kernels::Activation;
use burn_blast_kernels::BlockPattern;
use serde::{Deserialize, Serialize};

/// Activation of a feed-forward block.
///
/// These are the functions that the fused kernels compute. All of them are zero at zero. Burn's
/// [`Activation`](burn::nn::activation::Activation) is a module with variants that no kernel has, and without SiLU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MlpActivation {
    /// Gaussian error linear unit, exact (by the error function). In a gated block: GeGLU.
    Gelu,
    /// Rectified linear unit. In a gated block: ReGLU.
    Relu,
    /// `x · sigmoid(x)`, also called swish. In a gated block: SwiGLU.
    Silu,
}

impl MlpActivation {
    pub(crate) fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            MlpActivation::Gelu => gelu(x),
            MlpActivation::Relu => relu(x),
            MlpActivation::Silu => silu(x),
        }
    }
}

/// The same function in the kernels.
impl From<MlpActivation> for Activation {
    fn from(activation: MlpActivation) -> Self {
        match activation {
            MlpActivation::Gelu => Activation::Gelu,
            MlpActivation::Relu => Activation::Relu,
            MlpActivation::Silu => Activation::Silu,
        }
    }
}

/// Patterns and activation of a gated feed-forward block.
#[derive(Debug, Clone, PartialEq)]
pub struct GatedPatterns {
    /// Pattern of the gate, `[d_model, d_ff]`.
    pub gate: BlockPattern,
    /// Pattern of `[d_model, d_ff]`.
    pub up: BlockPattern,
    /// Pattern of `[d_ff, d_output]`.
    pub down: BlockPattern,
    /// Activation of the gate.
    pub activation: MlpActivation,
}

/// Patterns and activation of a feed-forward block of two layers.
#[derive(Debug, Clone, PartialEq)]
pub struct MlpPatterns {
    /// Pattern of `[d_model, d_ff]`.
    pub up: BlockPattern,
    /// Pattern of `[d_ff, d_output]`.
    pub down: BlockPattern,
    /// Activation between the layers.
    pub activation: MlpActivation,
}

/// `y = activation(x)`.
pub(crate) fn activate<B: Backend>(x: FloatTensor<B>, activation: MlpActivation) -> FloatTensor<B> {
    match activation {
        MlpActivation::Gelu => B::gelu(x),
        MlpActivation::Relu => B::relu(x),
        MlpActivation::Silu => B::float_mul(x.clone(), B::sigmoid(x)),
    }
}

/// Gradient of `x` from the gradient `dy` of `y = activation(x)`.
pub(crate) fn activate_backward<B: Backend>(
    x: FloatTensor<B>,
    y: FloatTensor<B>,
    dy: FloatTensor<B>,
    activation: MlpActivation,
) -> FloatTensor<B> {
    match activation {
        MlpActivation::Gelu => {
            // Φ(x) + x φ(x). Burn's own backward pass differentiates the tanh approximation.
            let erf = B::float_erf(B::float_mul_scalar(x.clone(), FRAC_1_SQRT_2.into()));
            let cdf = B::float_add_scalar(B::float_mul_scalar(erf, 0.5.into()), 0.5.into());
            let half_square =
                B::float_mul_scalar(B::float_mul(x.clone(), x.clone()), (-0.5).into());
            let density = B::float_mul_scalar(
                B::float_exp(half_square),
                (FRAC_2_SQRT_PI * FRAC_1_SQRT_2 / 2.0).into(),
            );
            B::float_mul(dy, B::float_add(cdf, B::float_mul(x, density)))
        }
        MlpActivation::Relu => B::relu_backward(y, dy),
        MlpActivation::Silu => {
            // s + y (1 - s)
            let s = B::sigmoid(x);
            let slope = B::float_add(s.clone(), B::float_sub(y.clone(), B::float_mul(y, s)));
            B::float_mul(dy, slope)
        }
    }
}
