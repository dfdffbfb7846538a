//! Generation, one row at a time: which path and kernel a layer takes for few rows, 8-bit weights, and warming up.
//!
//! ```sh
//! cargo run --release -p burn-blast-examples --example decode
//! ```

use std::error::Error;

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_blast::module::{Integer, quantize};
use burn_blast::prelude::*;
use burn_blast::report::summary;

const TEXT: &[u8] = b"the quick brown fox jumps over the lazy dog. ";
/// Bytes that the model sees.
const CONTEXT: usize = 8;
const D_BYTE: usize = 16;
const D_MODEL: usize = CONTEXT * D_BYTE;
const STEPS: usize = 120;

/// Scores the byte that follows [`CONTEXT`] others.
#[derive(Module, Debug)]
struct Net {
    embedding: Embedding,
    mlp: BlockSparseGatedMlp,
    head: Linear,
}

impl Net {
    fn new(device: &Device) -> Self {
        Self {
            embedding: EmbeddingConfig::new(256, D_BYTE).init(device),
            mlp: BlockSparseGatedMlpConfig::new(D_MODEL, 256).with_block_size(16).init(device),
            head: LinearConfig::new(D_MODEL, 256).init(device),
        }
    }

    /// # Shapes
    /// - `bytes`: `[rows, CONTEXT]`
    /// - output: `[rows, 256]`
    fn forward(&self, bytes: Tensor<2, Int>) -> Tensor<2> {
        let rows = bytes.dims()[0];
        let x = self.embedding.forward(bytes).reshape([rows, D_MODEL]);
        self.head.forward(x.clone() + self.mlp.forward(x))
    }

    /// Continues a text greedily. Each byte is a pass of one row.
    fn generate(&self, prompt: &[u8], count: usize) -> Vec<u8> {
        let mut text = prompt.to_vec();
        for _ in 0..count {
            let window = bytes(&[&text[text.len() - CONTEXT..]], &Device::flex());
            let best = self.forward(window).argmax(1).into_data().iter::<i64>().next();
            text.push(best.expect("one row gives one byte") as u8);
        }
        text
    }
}

fn bytes(rows: &[&[u8]], device: &Device) -> Tensor<2, Int> {
    let values: Vec<i32> = rows.concat().into_iter().map(i32::from).collect();
    Tensor::from_data(TensorData::new(values, [rows.len(), rows[0].len()]), device)
}

/// Learns the sentence by heart while three quarters of the MLP's blocks go.
fn trained() -> Result<Net, Box<dyn Error>> {
    let device = Device::flex().autodiff();
    device.seed(0);
    let config = BlastConfig::new(STEPS).with_sparsity(0.75).with_interval(10);
    let blast = Blast::new(AdamWConfig::new().build(), config);
    let (mut model, mut optim) = blast.attach(Net::new(&device))?;
    let endless = TEXT.repeat(2);
    let windows: Vec<&[u8]> = endless.windows(CONTEXT + 1).take(TEXT.len()).collect();
    let inputs: Vec<&[u8]> = windows.iter().map(|window| &window[..CONTEXT]).collect();
    let next: Vec<&[u8]> = windows.iter().map(|window| &window[CONTEXT..]).collect();
    let (inputs, next) = (bytes(&inputs, &device), bytes(&next, &device).flatten(0, 1));
    let criterion = CrossEntropyLossConfig::new().init(&device);
    for _ in 0..STEPS {
        let loss = criterion.forward(model.forward(inputs.clone()), next.clone());
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optim.step(3e-3, model, grads);
    }
    Ok(model.valid())
}

fn main() -> Result<(), Box<dyn Error>> {
    let model = trained()?;
    println!("{}", summary(&model));

    // A layer says what it does with a number of rows, and why: one when it generates, many when it reads a prompt.
    let gate = &model.mlp.gate;
    for rows in [1, 16, 256] {
        println!("{rows:>3} rows: {}; by {}", gate.path(rows), gate.kernel(rows));
    }

    // 8-bit integers with a scale per block. Few rows read the integers themselves: a quarter of the bytes. The weights
    // are frozen by this: quantise when training is done.
    let int8 = quantize(model.clone(), Integer::Int8)?;
    println!("gate: {} bytes in f32, {} in int8", gate.bytes(), int8.mlp.gate.bytes());
    assert!(int8.mlp.gate.bytes() < gate.bytes() / 3);

    // On a GPU this compiles the kernels of these numbers of rows before somebody waits for them.
    for layer in [&int8.mlp.gate, &int8.mlp.up, &int8.mlp.down] {
        layer.warm_up(&[1, 16])?;
    }

    let (prompt, count) = (&TEXT[..CONTEXT], TEXT.len() - CONTEXT);
    for (name, model) in [("f32", &model), ("int8", &int8)] {
        let text = model.generate(prompt, count);
        println!("{name:>4}: {}", String::from_utf8_lossy(&text));
        assert_eq!(text, TEXT);
    }
    Ok(())
}

#[test]
fn runs() {
    main().unwrap();
}
