//! Root mean square norms.

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};

/// `x / sqrt(mean(x²) + epsilon)`, times a weight for each feature.
///
/// Burn's own has no form that multiplies by one more than the weight, as Gemma does.
#[derive(Module, Debug)]
pub(crate) struct RmsNorm {
    pub(crate) gamma: Param<Tensor<1>>,
    pub(crate) epsilon: f64,
    /// Whether features are multiplied by `1 + gamma`.
    pub(crate) unit_offset: bool,
}

impl RmsNorm {
    /// # Shapes
    /// - `x` and output: `[.., features]`
    pub(crate) fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let dtype = x.dtype();
        let wide = x.clone().cast(DType::F32);
        let root = (wide.clone().square().mean_dim(D - 1) + self.epsilon).sqrt();
        let gamma = self.gamma.val();
        // Each rounds where transformers does.
        if self.unit_offset {
            let factor = gamma.cast(DType::F32).add_scalar(1.0);
            return (wide / root * factor.unsqueeze()).cast(dtype);
        }
        (x / root.cast(dtype)) * gamma.unsqueeze()
    }
}
