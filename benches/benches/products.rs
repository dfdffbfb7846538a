//! Forward and backward pass of one layer, block-sparse beside Burn's dense one, on Flex.
//!
//! `cargo bench -p blast-bench` times them; `cargo test` runs each once, after checking it.

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use burn_blast::module::{BlockSparseLinear, BlockSparseLinearConfig};
use burn_blast::tuning::Strategy;
use divan::{Bencher, black_box};

/// The MLP of Llama 3.2 1B.
const D_INPUT: usize = 2048;
const D_OUTPUT: usize = 8192;

/// Rows of a small training batch, and of one decoded token.
const ROWS: [usize; 2] = [256, 1];

/// Percentages of blocks removed.
const SPARSITY: [u32; 4] = [50, 80, 90, 95];

fn main() {
    check();
    divan::main();
}

fn layer(sparsity: u32, device: &Device) -> BlockSparseLinear {
    device.seed(1);
    BlockSparseLinearConfig::new(D_INPUT, D_OUTPUT)
        .with_block_size(64)
        .with_sparsity(f64::from(sparsity) / 100.0)
        .with_bias(false)
        .init(device)
        .with_strategy(Strategy::Sparse)
}

fn input(rows: usize, device: &Device) -> Tensor<2> {
    Tensor::random([rows, D_INPUT], Distribution::Default, device)
}

/// Checks that the sparse product equals the dense product of the same weight.
fn check() {
    let device = Device::flex();
    let (layer, x) = (layer(90, &device), input(3, &device));
    let sparse = layer.forward(x.clone());
    let dense = layer.into_linear().forward(x);
    let off = (sparse - dense).abs().max().into_scalar::<f32>();
    assert!(off < 1e-3, "the sparse product is off by {off}");
}

#[divan::bench(args = ROWS)]
fn forward_dense(bencher: Bencher, rows: usize) {
    let device = Device::flex();
    let (layer, x) = (layer(0, &device).into_linear(), input(rows, &device));
    bencher.bench_local(|| black_box(layer.forward(x.clone())));
}

#[divan::bench(args = SPARSITY, consts = ROWS)]
fn forward_sparse<const M: usize>(bencher: Bencher, sparsity: u32) {
    let device = Device::flex();
    let (layer, x) = (layer(sparsity, &device), input(M, &device));
    bencher.bench_local(|| black_box(layer.forward(x.clone())));
}

#[divan::bench]
fn gradients_dense(bencher: Bencher) {
    let device = Device::flex().autodiff();
    let layer = layer(0, &device).into_linear().train();
    let x = input(ROWS[0], &device).require_grad();
    bencher.bench_local(|| black_box(layer.forward(x.clone()).sum().backward()));
}

#[divan::bench(args = SPARSITY)]
fn gradients_sparse(bencher: Bencher, sparsity: u32) {
    let device = Device::flex().autodiff();
    let (layer, x) = (layer(sparsity, &device), input(ROWS[0], &device).require_grad());
    bencher.bench_local(|| black_box(layer.forward(x.clone()).sum().backward()));
}
