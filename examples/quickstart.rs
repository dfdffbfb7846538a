//! Two lines make a training loop sparse: the type of the layer, and the optimizer.
//!
//! ```sh
//! cargo run --release -p burn-blast-examples --example quickstart
//! ```

use std::error::Error;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Distribution, Tensor};
use burn_blast::io;
use burn_blast::prelude::*;
use burn_blast::report::summary;

const STEPS: usize = 200;
const D_INPUT: usize = 64;
const BLOCK: usize = 16;

#[derive(Module, Debug)]
struct Net {
    hidden: BlockSparseLinear,
    output: Linear,
}

impl Net {
    fn new(device: &Device) -> Self {
        Self {
            // Line 1: this was `LinearConfig::new(D_INPUT, 128)`. The layer starts with every block.
            hidden: BlockSparseLinearConfig::new(D_INPUT, 128).with_block_size(BLOCK).init(device),
            output: LinearConfig::new(128, BLOCK).init(device),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.output.forward(relu(self.hidden.forward(x)))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::flex().autodiff();
    device.seed(0);

    // Line 2: this was `ModuleOptimizer::from(AdamWConfig::new().build())`. Every 10 steps blocks are removed and
    // others come back, until a quarter of them is left.
    let config = BlastConfig::new(STEPS).with_sparsity(0.75).with_interval(10);
    let (mut model, mut optim) =
        Blast::new(AdamWConfig::new().build(), config).attach(Net::new(&device))?;

    // This is the training loop of any Burn model. Targets depend on the first 16 of 64 inputs.
    for step in 1..=STEPS {
        let x = Tensor::<2>::random([64, D_INPUT], Distribution::Uniform(-1.0, 1.0), &device);
        let target = x.clone().slice_dim(1, 0..BLOCK).abs();
        let loss = (model.forward(x) - target).square().mean();
        if step % 40 == 0 {
            let (loss, removed) = (loss.clone().into_scalar::<f32>(), model.hidden.sparsity());
            println!("step {step}: loss {loss:.4}, {:.0} % of the blocks removed", 100.0 * removed);
        }
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optim.step(3e-3, model, grads);
    }

    // The layer now stores, multiplies and saves a quarter of its weight.
    println!("\n{}", summary(&model));
    assert_eq!(model.hidden.sparsity(), 0.75);
    let pattern = model.hidden.pattern();
    let useful = pattern.row_idx().iter().filter(|row| **row == 0).count();
    println!("{useful} of {} kept blocks read the inputs that count", pattern.nnz());
    assert!(2 * useful > pattern.nnz());

    // A new model of the same architecture takes the blocks of the file.
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.bpk");
    io::save(&model, &path)?;
    let loaded = io::load(Net::new(&device), &path)?;
    assert_eq!(loaded.hidden.pattern(), pattern);
    Ok(())
}

#[test]
fn runs() {
    main().unwrap();
}
