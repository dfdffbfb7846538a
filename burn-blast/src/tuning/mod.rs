//! When a layer multiplies sparse and when dense, and how to measure it.
//!
//! A [`Strategy`] decides between the block-sparse product and Burn's dense product on the unpacked weight. With
//! [`Strategy::Auto`], the default, a layer goes by a cost model, or by a [`TuningTable`] of measured break-even points
//! that was given to it with [`apply`]. [`BlockSparseLinear::path`](crate::module::BlockSparseLinear::path) says which
//! one it takes and why.
//!
//! [`TuningTable::measure`] takes the sizes of a model and measures them on the spot. `blast-bench tune` writes the
//! break-even points of a benchmark run to a file:
//!
//! ```no_run
//! use burn::tensor::Device;
//! use burn_blast::module::BlockSparseLinearConfig;
//! use burn_blast::tuning::{self, TuningTables};
//!
//! let tables = TuningTables::load("tuning.json")?;
//! let model = BlockSparseLinearConfig::new(64, 128).init(&Device::flex());
//! let model = tuning::apply(model, tables.for_backend("flex")?);
//! # Ok::<(), tuning::TuningError>(())
//! ```

mod measure;
mod tables;

use std::collections::BTreeSet;
use std::sync::Arc;

use burn::backend::ExecutionError;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Tensor};
#[doc(hidden)]
pub use burn_blast_kernels::cost;
pub use burn_blast_kernels::cpu::{
    allow_bf16, allow_int8, bf16_allowed, has_dot_products, has_integer_dot_products, int8_allowed,
};
#[cfg(feature = "cube")]
pub use burn_blast_kernels::cube::{allow_tf32, tf32_allowed};
pub use burn_blast_kernels::{PathChoice, PathReason, ProductPath, Strategy};

pub use crate::backends::Kernel;
pub use crate::break_even::{BreakEven, TuningTable};
use crate::module::BlockSparseLinear;
use crate::window;

#[doc(hidden)]
pub use measure::break_even;
pub use tables::{TuningError, TuningTables};

/// Gives a table to every block-sparse layer of a model, in place of an earlier one. Layers with [`Strategy::Auto`] use
/// it.
///
/// A table is valid for the device that it was measured on. A layer keeps it in training, when a file is loaded into it
/// and when it is moved to another device. Records do not hold it, and a layer made from another one starts without.
pub fn apply<M: Module>(model: M, table: &TuningTable) -> M {
    model.map(&mut Apply(Arc::new(table.clone())))
}

struct Apply(Arc<TuningTable>);

impl ModuleMapper for Apply {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        window::request(|request| request.tuning = Some(self.0.clone()));
        param
    }
}

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
