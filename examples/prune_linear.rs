//! Prunes a model of plain `nn::Linear` layers in place, without a change to its types, and packs what is left.
//!
//! ```sh
//! cargo run --release -p burn-blast-examples --example prune_linear
//! ```

use std::error::Error;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Distribution, Tensor};
use burn_blast::prelude::*;
use burn_blast::prune::LinearRule;

const STEPS: usize = 100;
const BLOCK: usize = 16;

/// Somebody else's model: its types cannot be changed.
#[derive(Module, Debug)]
struct Net {
    hidden: Linear,
    output: Linear,
}

impl Net {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.output.forward(relu(self.hidden.forward(x)))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::flex().autodiff();
    device.seed(0);
    let net = Net {
        hidden: LinearConfig::new(64, 256).init(&device),
        output: LinearConfig::new(256, 64).init(&device),
    };

    // Plain layers are pruned only where a rule names them, or a module that contains them.
    let rule = LinearRule { path: "hidden".into(), block_size: BLOCK };
    let config =
        BlastConfig::new(STEPS).with_sparsity(0.75).with_interval(10).with_linear(vec![rule]);
    let (mut net, mut optim) = Blast::new(AdamWConfig::new().build(), config).attach(net)?;
    for _ in 0..STEPS {
        let x = Tensor::<2>::random([64, 64], Distribution::Default, &device);
        let loss = (net.forward(x.clone()) - x.abs()).square().mean();
        let grads = GradientsParams::from_grads(loss.backward(), &net);
        net = optim.step(3e-3, net, grads);
    }

    // The weight is still dense, of the same shape and cost. Its removed blocks are zero.
    let net = net.valid();
    assert_eq!(net.hidden.weight.dims(), [64, 256]);

    // Packed, it holds the other blocks only, and computes the same.
    let packed = BlockSparseLinear::from_linear(&net.hidden, BLOCK)?;
    assert_eq!(packed.sparsity(), 0.75);
    let x = Tensor::<2>::random([5, 64], Distribution::Default, &Device::flex());
    let difference = (packed.forward(x.clone()) - net.hidden.forward(x)).abs().max();
    let (difference, dense) = (difference.into_scalar::<f32>(), 64 * 256 * size_of::<f32>());
    println!("{} bytes packed, {dense} before; outputs differ by {difference:e}", packed.bytes());
    assert!(difference < 1e-5 && packed.bytes() < dense / 3);
    Ok(())
}

#[test]
fn runs() {
    main().unwrap();
}
