//! Burn's `SupervisedTraining` and an unmodified `Learner`: pruning comes with the optimizer, and shows in the metrics.
//!
//! ```sh
//! cargo run --release -p burn-blast-examples --example learner
//! ```

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::data::dataset::InMemDataset;
use burn::module::Module;
use burn::optim::AdamWConfig;
use burn::tensor::{Device, Tensor, TensorData};
use burn::train::metric::LossMetric;
use burn::train::{
    InferenceStep, Learner, RegressionOutput, SupervisedTraining, TrainOutput, TrainStep,
};
use burn_blast::io;
use burn_blast::prelude::*;
use burn_blast::prune::Snapshot;
use burn_blast::train::{ChurnMetric, SizeMetric, SparsityMetric};

const D_MODEL: usize = 32;
const ITEMS: usize = 64;
const BATCH: usize = 16;
const EPOCHS: usize = 15;

#[derive(Clone, Debug)]
struct Batch {
    inputs: Tensor<2>,
    targets: Tensor<2>,
}

/// An item is a number: its inputs are waves of that phase, its targets the same waves, rectified.
#[derive(Clone)]
struct Waves;

impl Batcher<u64, Batch> for Waves {
    fn batch(&self, items: Vec<u64>, device: &Device) -> Batch {
        let wave = |item: &u64| -> Vec<f32> {
            (0..D_MODEL).map(|at| ((at as f32 + 1.0) * *item as f32 * 0.37).sin()).collect()
        };
        let values: Vec<f32> = items.iter().flat_map(wave).collect();
        let inputs = Tensor::from_data(TensorData::new(values, [items.len(), D_MODEL]), device);
        Batch { targets: inputs.clone().abs(), inputs }
    }
}

fn loader(device: &Device) -> Arc<dyn DataLoader<Batch>> {
    let items = InMemDataset::new((0..ITEMS as u64).collect());
    DataLoaderBuilder::new(Waves).batch_size(BATCH).set_device(device.clone()).build(items)
}

#[derive(Module, Debug)]
struct Net {
    mlp: BlockSparseMlp,
}

impl Net {
    fn new(device: &Device) -> Self {
        Self { mlp: BlockSparseMlpConfig::new(D_MODEL, 64).with_block_size(8).init(device) }
    }

    fn output(&self, batch: Batch) -> RegressionOutput {
        let output = self.mlp.forward(batch.inputs);
        let loss = (output.clone() - batch.targets.clone()).square().mean();
        RegressionOutput::new(loss, output, batch.targets)
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

/// Trains in `folder`, from the checkpoint of an epoch if one is named.
fn fit(folder: &Path, resume_from: Option<usize>) -> Result<(Net, Snapshot), Box<dyn Error>> {
    let device = Device::flex();
    let train_device = device.clone().autodiff();
    let mut model = Net::new(&train_device);
    if let Some(epoch) = resume_from {
        // Burn's loader wants a model of the same blocks as the checkpoint.
        model = io::load(model, folder.join(format!("checkpoint/model-{epoch}.bpk")))?;
    }

    // Steps are optimizer steps, over all epochs.
    let config = BlastConfig::new(EPOCHS * ITEMS / BATCH).with_sparsity(0.75).with_interval(8);
    let blast = Blast::new(AdamWConfig::new().build(), config);
    let monitor = blast.monitor();
    let (model, optim) = blast.attach(model)?;

    let mut training = SupervisedTraining::new(folder, loader(&train_device), loader(&device))
        .metric_train_numeric(LossMetric::new())
        .metric_valid_numeric(LossMetric::new())
        .metric_train_numeric(SparsityMetric::new(&monitor))
        .metric_train_numeric(ChurnMetric::new(&monitor))
        .metric_train_numeric(SizeMetric::new(&monitor))
        .with_default_checkpointers()
        .with_application_logger(None)
        .num_epochs(EPOCHS);
    if let Some(epoch) = resume_from {
        training = training.checkpoint(epoch);
    }
    let result = training.launch(Learner::new(model, optim, 3e-3));
    Ok((result.model, monitor.snapshot()))
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let (model, snapshot) = fit(folder.path(), None)?;
    println!(
        "\n{} steps, {:.0} % of the blocks removed, {} of {} bytes",
        snapshot.step,
        100.0 * snapshot.sparsity,
        snapshot.weight_bytes,
        snapshot.dense_bytes
    );
    assert_eq!(snapshot.sparsity, 0.75);

    // The last epoch once more, from the checkpoint before it: the same bits.
    let (again, _) = fit(folder.path(), Some(EPOCHS - 1))?;
    let values = |net: &Net| net.mlp.down.weight.values().into_data();
    assert_eq!(values(&model), values(&again));
    Ok(())
}

#[test]
fn runs() {
    main().unwrap();
}
