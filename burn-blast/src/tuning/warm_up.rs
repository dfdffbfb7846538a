//! Running kernels once before they are timed or waited for.

use std::collections::BTreeSet;

use burn::backend::ExecutionError;
use burn::tensor::{DType, Device, Tensor};

use crate::module::BlockSparseLinear;

/// Runs `forward` on zeros, once for each number of rows, and waits for the device. The device has then compiled the
/// kernels that inputs of these sizes need, and tuned them if the feature `autotune` is on.
///
/// On a device with autodiff the backward pass runs as well; its gradients are dropped. On a CPU there is nothing to
/// compile. For one layer there is [`BlockSparseLinear::warm_up`].
///
/// # Shapes
/// - input of `forward`: `[rows, d_input]` of `dtype`
///
/// # Errors
/// If the device fails, for example in a launch.
///
/// # Example
/// ```
/// use burn::tensor::{DType, Device};
/// use burn_blast::module::BlockSparseGatedMlpConfig;
/// use burn_blast::tuning::warm_up;
///
/// let device = Device::flex().autodiff();
/// let mlp = BlockSparseGatedMlpConfig::new(64, 128).init(&device);
/// // One row in generation, 128 in training.
/// warm_up(|x| mlp.forward(x), 64, &[1, 128], &device, DType::F32)?;
/// # Ok::<(), burn::backend::ExecutionError>(())
/// ```
pub fn warm_up(
    forward: impl Fn(Tensor<2>) -> Tensor<2>,
    d_input: usize,
    rows: &[usize],
    device: &Device,
    dtype: DType,
) -> Result<(), ExecutionError> {
    for rows in rows.iter().copied().collect::<BTreeSet<_>>() {
        let x = Tensor::zeros([rows, d_input], (device, dtype));
        if device.is_autodiff() {
            drop(forward(x.require_grad()).sum().backward());
        } else {
            drop(forward(x));
        }
    }
    device.sync()
}

impl BlockSparseLinear {
    /// Compiles the kernels that inputs of these numbers of rows need, so that the first step does not wait for them.
    /// See [`warm_up`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn warm_up(&self, rows: &[usize]) -> Result<(), ExecutionError> {
        let (device, dtype) = (self.weight.device(), self.weight.float_dtype());
        warm_up(|x| self.forward(x), self.pattern().shape().rows(), rows, &device, dtype)
    }
}
