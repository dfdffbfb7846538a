//! `SupervisedTraining` with an unmodified `Learner`: prunes, reports metrics, resumes bit for bit.

mod common;

use std::path::Path;
use std::sync::Arc;

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderBuilder, Progress};
use burn::data::dataset::InMemDataset;
use burn::module::Module;
use burn::optim::AdamWConfig;
use burn::tensor::{DType, Device, Tensor};
use burn::train::checkpoint::KeepLastNCheckpoints;
use burn::train::logger::InMemoryMetricLogger;
use burn::train::metric::{LossMetric, Metric, MetricMetadata, Numeric, NumericEntry};
use burn::train::{
    ExecutionStrategy, InferenceStep, Learner, MultiDeviceOptim, RegressionOutput,
    SupervisedTraining, TrainOutput, TrainStep,
};
use burn_blast::io;
use burn_blast::prune::{Blast, BlastConfig, Monitor};
use burn_blast::train::{ChurnMetric, SizeMetric, SparsityMetric};
use common::toy::{self, D, Net};
use common::{Zeros, numbers, tensor};

/// Inputs and targets.
type Batch = (Tensor<2>, Tensor<2>);

#[derive(Clone)]
struct Pairs;

impl Batcher<u64, Batch> for Pairs {
    fn batch(&self, items: Vec<u64>, device: &Device) -> Batch {
        let x: Vec<f32> = items.iter().flat_map(|&item| numbers(D, item)).collect();
        let x = tensor(&x, [items.len(), D], device, DType::F32);
        (x.clone(), x.abs())
    }
}

/// Three batches of four, in a fixed order.
fn loader(device: &Device) -> Arc<dyn DataLoader<Batch>> {
    let builder = DataLoaderBuilder::new(Pairs).batch_size(4).set_device(device.clone());
    builder.build(InMemDataset::new((0..12).collect()))
}

impl TrainStep for Net {
    type Input = Batch;
    type Output = RegressionOutput;

    fn step(&self, batch: Batch) -> TrainOutput<RegressionOutput> {
        let output = InferenceStep::step(self, batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl InferenceStep for Net {
    type Input = Batch;
    type Output = RegressionOutput;

    fn step(&self, (x, y): Batch) -> RegressionOutput {
        let output = self.forward(x);
        RegressionOutput::new((output.clone() - y.clone()).square().mean(), output, y)
    }
}

/// 20 epochs of 3 batches, updates every 10 steps; a checkpoint after every epoch, so one at step 33. `steps` are the
/// optimizer steps in all.
fn fit(
    folder: &Path,
    model: Net,
    resume_from: Option<usize>,
    strategy: Option<ExecutionStrategy>,
    steps: usize,
) -> (Net, Monitor) {
    let device = Device::flex();
    let config = BlastConfig::new(steps).with_sparsity(0.75).with_interval(10);
    let blast = Blast::new(AdamWConfig::new().build(), config);
    let monitor = blast.monitor();
    let (model, optim) = blast.attach(model).unwrap();
    let mut training =
        SupervisedTraining::new(folder, loader(&device.clone().autodiff()), loader(&device))
            .metric_train_numeric(LossMetric::new())
            .metric_train_numeric(SparsityMetric::new(&monitor))
            .metric_train_numeric(ChurnMetric::new(&monitor))
            .metric_train_numeric(SizeMetric::new(&monitor))
            .metric_valid_numeric(LossMetric::new())
            .with_metric_logger(InMemoryMetricLogger::new())
            .with_default_checkpointers()
            .with_checkpointing_strategy(KeepLastNCheckpoints::new(30))
            .with_application_logger(None)
            .num_epochs(20);
    if let Some(strategy) = strategy {
        training = training.with_training_strategy(strategy.into());
    }
    if let Some(epoch) = resume_from {
        training = training.checkpoint(epoch);
    }
    (training.launch(Learner::new(model, optim, 3e-3)).model, monitor)
}

#[test]
fn a_learner_prunes_and_its_checkpoint_resumes_bitwise() {
    let device = Device::flex().autodiff();
    let folder = tempfile::tempdir().unwrap();
    let (unbroken, monitor) = fit(folder.path(), Net::new(&device), None, None, 60);
    assert_eq!(unbroken.a.sparsity(), 0.75);
    assert_eq!(monitor.snapshot().step, 60);

    let checkpoint = folder.path().join("checkpoint/model-11.bpk");
    let fresh = io::load(Net::new(&device), checkpoint).unwrap();
    // Burn fills the blocks again.
    let fresh = fresh.map(&mut Zeros);
    let (resumed, _) = fit(folder.path(), fresh, Some(11), None, 60);
    assert!(unbroken.content() == resumed.content());
}

#[test]
fn two_devices_train_one_pattern() {
    let device = Device::flex().autodiff();
    for optim in [MultiDeviceOptim::OptimMainDevice, MultiDeviceOptim::OptimSharded] {
        let folder = tempfile::tempdir().unwrap();
        let strategy = ExecutionStrategy::multi(vec![device.clone(), device.clone()], optim);
        // Each device has two batches an epoch, and both together are one step.
        let (model, monitor) = fit(folder.path(), Net::new(&device), None, Some(strategy), 40);
        assert_eq!(monitor.snapshot().step, 40, "{optim:?}");
        assert_eq!([model.a.sparsity(), model.b.sparsity()], [0.75, 0.75], "{optim:?}");
    }
}

#[test]
fn the_metrics_read_what_the_monitor_knows() {
    let device = Device::flex().autodiff();
    let (_, monitor, _) = toy::run(AdamWConfig::new().build(), toy::config(20), 20, &device);
    let snapshot = monitor.snapshot();
    let value = |metric: &dyn Numeric| match metric.final_value() {
        NumericEntry::Value(value) => value,
        other => panic!("a single value, not {other:?}"),
    };
    let progress = Progress { items_processed: 1, items_total: 1, unit: None };
    let metadata = MetricMetadata { progress, iteration: Some(1), lr: None };
    let mut sparsity = SparsityMetric::new(&monitor);
    let text = sparsity.update(&(), &metadata).unwrap().formatted;
    assert_eq!(text, "Block sparsity: 75.00 %");
    assert_eq!(value(&sparsity), 100.0 * snapshot.sparsity);
    let mut size = SizeMetric::new(&monitor);
    size.update(&(), &metadata).unwrap();
    assert!(value(&size) > 25.0 && value(&size) < 35.0);
    let mut churn = ChurnMetric::new(&monitor);
    churn.update(&(), &metadata).unwrap();
    assert_eq!(value(&churn), 100.0 * snapshot.churn);
}
