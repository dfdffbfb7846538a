//! A model to save, and the two formats to save it in.

use std::path::Path;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use burn_blast::io;
use burn_blast::module::{BlockSparseLinear, BlockSparseLinearConfig};

use super::floats;

#[derive(Module, Debug)]
pub struct Net {
    pub first: Linear,
    pub a: BlockSparseLinear,
    pub b: BlockSparseLinear,
}

impl Net {
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.b.forward(self.a.forward(self.first.forward(x)).tanh())
    }
}

pub fn net(sparsity: f64, seed: u64, device: &Device) -> Net {
    device.seed(seed);
    let layer = |d_input, d_output| {
        BlockSparseLinearConfig::new(d_input, d_output)
            .with_block_size(8)
            .with_sparsity(sparsity)
            .with_seed(seed)
            .init(device)
    };
    Net { first: LinearConfig::new(4, 20).init(device), a: layer(20, 33), b: layer(33, 16) }
}

pub fn content(model: &Net) -> Vec<Vec<f32>> {
    vec![
        floats(model.first.weight.val()),
        floats(model.a.to_dense()),
        floats(model.a.bias.as_ref().unwrap().val()),
        floats(model.b.to_dense()),
    ]
}

pub type Save = fn(&Net, &Path) -> Result<(), io::IoError>;
pub type Load = fn(Net, &Path) -> Result<Net, io::IoError>;

pub fn formats() -> [(&'static str, Save, Load); 2] {
    [
        ("burnpack", |model, path| io::save(model, path), |model, path| io::load(model, path)),
        (
            "safetensors",
            |model, path| io::save_safetensors(model, path),
            |model, path| io::load_safetensors(model, path),
        ),
    ]
}
