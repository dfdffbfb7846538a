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
use burn_blast::module::{BlockSparseLinear, BlockSparseLinearConfig};
use burn_blast::prune::{Blast, BlastConfig, Monitor};
use burn_blast::train::{ChurnMetric, SizeMetric, SparsityMetric};
use common::{bits, numbers, tensor};

const D: usize = 32;

#[derive(Module, Debug)]
struct Net {
    a: BlockSparseLinear,
    b: BlockSparseLinear,
}

#[derive(Clone, Debug)]
struct Batch {
    x: Tensor<2>,
    y: Tensor<2>,
}

#[derive(Clone)]
struct Pairs;

impl Batcher<u64, Batch> for Pairs {
    fn batch(&self, items: Vec<u64>, device: &Device) -> Batch {
        let rows = items.len();
        let x: Vec<f32> = items.iter().flat_map(|&item| numbers(D, item)).collect();
        let y: Vec<f32> = x.iter().map(|x| x.abs()).collect();
        Batch {
            x: tensor(&x, [rows, D], device, DType::F32),
            y: tensor(&y, [rows, D], device, DType::F32),
        }
    }
}

/// Three batches of four, in a fixed order.
fn loader(device: &Device) -> Arc<dyn DataLoader<Batch>> {
    DataLoaderBuilder::new(Pairs)
        .batch_size(4)
        .set_device(device.clone())
        .build(InMemDataset::new((0..12).collect()))
}

impl Net {
    fn new(device: &Device, seed: u64) -> Self {
        device.seed(seed);
        let layer = || BlockSparseLinearConfig::new(D, D).with_block_size(8).init(device);
        Self { a: layer(), b: layer() }
    }

    fn output(&self, batch: Batch) -> RegressionOutput {
        let output = self.b.forward(self.a.forward(batch.x).tanh());
        let loss = (output.clone() - batch.y.clone()).square().mean();
        RegressionOutput::new(loss, output, batch.y)
    }
}

impl TrainStep for Net {
    type Input = Batch;
    type Output = RegressionOutput;

    fn step(&self, batch: Batch) -> TrainOutput<RegressionOutput> {
        let output = self.output(batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl InferenceStep for Net {
    type Input = Batch;
    type Output = RegressionOutput;

    fn step(&self, batch: Batch) -> RegressionOutput {
        self.output(batch)
    }
}

/// 20 epochs of 3 steps, updates every 10; a checkpoint after every epoch, so one at step 33.
fn fit(folder: &Path, model: Net, resume_from: Option<usize>) -> (Net, Monitor) {
    fit_on(folder, model, resume_from, None, 60)
}

/// The same on other devices, which take `steps` optimizer steps in all.
fn fit_on(
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

fn content(model: &Net) -> Vec<Vec<u32>> {
    [&model.a, &model.b]
        .into_iter()
        .flat_map(|layer| {
            let bias = layer.bias.as_ref().unwrap().val();
            [
                bits(layer.weight.values()),
                bits(bias),
                layer.pattern().row_idx().to_vec(),
                layer.pattern().col_ptr().to_vec(),
            ]
        })
        .collect()
}

#[test]
fn a_learner_prunes_and_its_checkpoint_resumes_bitwise() {
    let device = Device::flex().autodiff();
    let folder = tempfile::tempdir().unwrap();
    let (unbroken, monitor) = fit(folder.path(), Net::new(&device, 1), None);
    assert_eq!(unbroken.a.sparsity(), 0.75);
    assert_eq!(monitor.snapshot().step, 60);

    let checkpoint = folder.path().join("checkpoint/model-11.bpk");
    let fresh = io::size_to(Net::new(&device, 2), checkpoint).unwrap();
    let (resumed, _) = fit(folder.path(), fresh, Some(11));
    assert!(content(&unbroken) == content(&resumed));
}

#[test]
fn two_devices_train_one_pattern() {
    let device = Device::flex().autodiff();
    for optim in [MultiDeviceOptim::OptimMainDevice, MultiDeviceOptim::OptimSharded] {
        let folder = tempfile::tempdir().unwrap();
        let strategy = ExecutionStrategy::multi(vec![device.clone(), device.clone()], optim);
        // Each device has two batches an epoch, and both together are one step.
        let (model, monitor) =
            fit_on(folder.path(), Net::new(&device, 1), None, Some(strategy), 40);
        assert_eq!(monitor.snapshot().step, 40, "{optim:?}");
        assert_eq!([model.a.sparsity(), model.b.sparsity()], [0.75, 0.75], "{optim:?}");
    }
}

#[test]
fn the_metrics_read_what_the_monitor_knows() {
    let device = Device::flex().autodiff();
    let folder = tempfile::tempdir().unwrap();
    let (_, monitor) = fit(folder.path(), Net::new(&device, 1), None);
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
