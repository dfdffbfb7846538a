//! The first run of a kernel, before it counts.

use std::collections::BTreeSet;

use burn::backend::ExecutionError;
use burn::tensor::{DType, Device, Tensor};

/// Runs `forward` on zeros, once for each number of rows, and waits for the device: it then has compiled, and with
/// the feature `autotune` tuned, the kernels that inputs of these sizes need.
///
/// On a device with autodiff the backward pass runs as well; its gradients are dropped. On a CPU there is nothing
/// to compile, and this costs what the products cost. [`BlockSparseLinear::warm_up`](crate::BlockSparseLinear::warm_up)
/// is this for one layer.
///
/// # Shapes
/// - input of `forward`: `[rows, d_input]` of `dtype`
///
/// # Errors
/// If the device fails: an error of a launch comes out here.
///
/// # Example
/// ```
/// use burn::tensor::{DType, Device};
/// use burn_blast::{BlockSparseGatedMlpConfig, warm_up};
///
/// let device = Device::flex().autodiff();
/// let mlp = BlockSparseGatedMlpConfig::new(64, 128).init(&device);
/// // One row when it generates, 128 when it trains.
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
