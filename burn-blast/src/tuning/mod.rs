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

mod error;
mod measure;
mod tables;
mod warm_up;

use std::sync::Arc;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
#[cfg(feature = "cube")]
pub use burn_blast_kernels::cube::{allow_tf32, tf32_allowed};
pub use burn_blast_kernels::{PathChoice, PathReason, ProductPath, Strategy, cost};

pub use crate::backends::Kernel;
pub use crate::break_even::{BreakEven, TuningTable};
use crate::window;

pub use error::{TuningError, VERSION};
pub use measure::break_even;
pub use tables::TuningTables;
pub use warm_up::warm_up;

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
