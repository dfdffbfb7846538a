//! Prune and grow: how the blocks that a model keeps change while it trains.
//!
//! There are five independent parts. A [`Schedule`] gives the sparsity of a layer at a step. A [`Budget`] distributes
//! it over the layers. A [`Score`] ranks the kept blocks and a [`Growth`] rule the absent ones. The selection makes a
//! mask of the exact count from both rankings. [`Blast`] runs them inside the optimizer step and moves values and
//! optimizer moments to the new pattern.
//!
//! Method: blocked prune-and-grow of BLaST (arXiv 2507.03117, section 3); gradient growth after RigL (arXiv
//! 1911.11134); the cubic schedule after Zhu and Gupta (arXiv 1710.01878); movement scores after Sanh et al.
//! (arXiv 2005.07683). Here the kept count is exact at every step (BLaST keeps the union of two top-k sets,
//! available as [`KeepRule::Union`]), and storage is packed throughout.
//!
//! # In a custom loop
//! ```
//! use burn::module::Module;
//! use burn::optim::{AdamWConfig, GradientsParams};
//! use burn::tensor::{Device, Distribution, Tensor};
//! use burn_blast::module::{BlockSparseLinear, BlockSparseLinearConfig};
//! use burn_blast::prune::{Blast, BlastConfig};
//!
//! let device = Device::flex().autodiff();
//! // The first changed line: the layer type.
//! let model = BlockSparseLinearConfig::new(64, 64).with_block_size(16).init(&device);
//! // The second: the optimizer. `attach` takes the place of its `init`, and gives the model back too.
//! let config = BlastConfig::new(40).with_sparsity(0.75).with_interval(5);
//! let (mut model, mut optim) = Blast::new(AdamWConfig::new().build(), config).attach(model)?;
//!
//! for _ in 0..40 {
//!     let x = Tensor::<2>::random([8, 64], Distribution::Default, &device);
//!     let loss = (model.forward(x.clone()) - x).square().mean();
//!     let grads = GradientsParams::from_grads(loss.backward(), &model);
//!     model = optim.step(1e-3, model, grads);
//! }
//! assert_eq!(model.sparsity(), 0.75);
//! # Ok::<(), burn_blast::prune::BlastError>(())
//! ```

mod attach;
mod clock;
mod config;
mod coupled;
mod error;
mod ledger;
mod masked;
mod master;
mod moments;
mod optimizer;
mod replicas;
mod run;
mod score;
mod select;
mod state;
mod structure;
mod targets;
mod update;
mod validate;

pub use burn_blast_kernels::budget::Budget;
pub use config::{
    BlastConfig, Coupling, Growth, KeepRule, LayerRule, LinearRule, Schedule, Score, Structure,
};
pub use error::BlastError;
pub use ledger::LayerSnapshot;
pub use master::{MasterState, MasterWeights};
pub use moments::BlockOptimizer;
pub use optimizer::Blast;
pub use replicas::{check_replicas, pattern_hash};
pub use run::{Monitor, Snapshot};
pub use state::BlastState;
