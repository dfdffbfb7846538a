//! Sparsity, churn and size as metrics of [`burn::train`].
//!
//! # In `SupervisedTraining`
//! Only the optimizer passed to `Learner::new` differs from dense training:
//! ```no_run
//! # use burn::data::dataloader::DataLoader;
//! # use burn::train::{InferenceStep, Learner, SupervisedTraining, TrainStep};
//! # use std::sync::Arc;
//! use burn::optim::AdamWConfig;
//! use burn_blast::prune::{Blast, BlastConfig};
//! use burn_blast::train::{SizeMetric, SparsityMetric};
//!
//! # fn fit<M>(
//! #     model: M,
//! #     train: Arc<dyn DataLoader<<M as TrainStep>::Input>>,
//! #     valid: Arc<dyn DataLoader<<M as InferenceStep>::Input>>,
//! # ) -> Result<(), burn_blast::prune::BlastError>
//! # where
//! #     M: burn::train::TrainStep + burn::train::InferenceStep + burn::module::Module
//! #         + core::fmt::Display + 'static,
//! # {
//! let blast = Blast::new(AdamWConfig::new().build(), BlastConfig::new(10_000));
//! let monitor = blast.monitor();
//! let (model, optim) = blast.attach(model)?;
//! let training = SupervisedTraining::new("run", train, valid)
//!     .metric_train_numeric(SparsityMetric::new(&monitor))
//!     .metric_train_numeric(SizeMetric::new(&monitor))
//!     .with_default_checkpointers()
//!     .num_epochs(10);
//! let result = training.launch(Learner::new(model, optim, 1e-3));
//! # Ok(())
//! # }
//! ```
//! To resume from a checkpoint, load it into the fresh model with [`io::load`](crate::io::load) before attaching.

use std::sync::Arc;

use burn::tensor::TensorReadError;
use burn::train::metric::{
    Metric, MetricAttributes, MetricMetadata, Numeric, NumericAttributes, NumericEntry,
    SerializedEntry,
};

use crate::prune::Monitor;

/// Declares a metric that reads one number from the monitor of a run.
macro_rules! monitor_metric {
    ($(#[$doc:meta])* $name:ident, $title:literal, $unit:literal, |$snapshot:ident| $value:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name {
            monitor: Monitor,
            current: f64,
        }

        impl $name {
            /// A metric of the given run.
            pub fn new(monitor: &Monitor) -> Self {
                Self { monitor: monitor.clone(), current: 0.0 }
            }
        }

        impl Metric for $name {
            type Input = ();

            fn name(&self) -> Arc<String> {
                Arc::new($title.to_string())
            }

            fn attributes(&self) -> MetricAttributes {
                let unit = Some($unit.to_string());
                NumericAttributes { unit, higher_is_better: false }.into()
            }

            fn update(
                &mut self,
                _item: &(),
                _metadata: &MetricMetadata,
            ) -> Result<SerializedEntry, TensorReadError> {
                let $snapshot = self.monitor.snapshot();
                self.current = $value;
                self.compute()
            }

            fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
                let formatted = format!("{}: {:.2} {}", $title, self.current, $unit);
                Ok(SerializedEntry::new(formatted, self.current.to_string()))
            }

            fn clear(&mut self) {}
        }

        impl Numeric for $name {
            fn value(&self) -> Option<NumericEntry> {
                Some(NumericEntry::Value(self.current))
            }

            fn running_value(&self) -> Option<NumericEntry> {
                Some(NumericEntry::Value(self.current))
            }

            fn final_value(&self) -> NumericEntry {
                NumericEntry::Value(self.current)
            }
        }
    };
}

monitor_metric!(
    /// Share of blocks removed from the pruned layers, in per cent.
    SparsityMetric,
    "Block sparsity",
    "%",
    |snapshot| 100.0 * snapshot.sparsity
);

monitor_metric!(
    /// Blocks dropped and added by the latest update, in per cent of the blocks kept.
    ChurnMetric,
    "Block churn",
    "%",
    |snapshot| 100.0 * snapshot.churn
);

monitor_metric!(
    /// Bytes of the block-sparse weights and their indices, in per cent of the same weights dense.
    SizeMetric,
    "Sparse weight size",
    "% of dense",
    |snapshot| 100.0 * snapshot.weight_bytes as f64 / snapshot.dense_bytes.max(1) as f64
);
